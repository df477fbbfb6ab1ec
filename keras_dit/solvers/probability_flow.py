"""What a solver's step is made of: the probability flow between two times.

Along the flow, with λ = log(α / σ), half of the logarithm of the signal-to-noise ratio, and
h = λ_s − λ_t,

    x_s = σ_s / σ_t x_t + α_s ∫₀ʰ e^{r − h} x0(λ_t + r) dr                                  (1)

(Lu et al., DPM-Solver++, 2022, proposition 4.1). A run's first time may have no signal, λ = −∞.
Divided by α + σ every schedule is a rectified flow, y = (1 − u) x0 + u ε with u = σ / (α + σ),
whose velocity is dy/du = ε − x0. All of it is plain arithmetic, for tensors and numpy arrays.
"""

import operator

import numpy as np
from keras import ops


def fresh(here, there):
    """The share of x's noise variance that the forward process adds from there to here.

    σ_t² times it is the variance of that process, DDPM's β; σ_s² times it is the variance of
    the posterior q(x_s | x_t, x0), Ho et al. (2020), equation 7, for any two times.
    """
    kept = _kept(here, there)
    return (1.0 - kept) * (1.0 + kept)


def follow(x, x0, here, there):
    """(1) with x0 fixed: the noise that x holds is kept."""
    return there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)


def renew(x, x0, here, there, noise):
    """A draw from q(x_s | x_t, x0)."""
    share = fresh(here, there)
    keep = _kept(here, there) * there.sigma / here.sigma
    return keep * x + there.alpha * share * x0 + there.sigma * share**0.5 * noise


def ahead(x0, here, there, last):
    """x0 half a step ahead in λ, on the line through the last estimate (x0, rates) and this."""
    if last is None:
        return x0
    last_x0, last_rates = last
    now = _log_snr(here)
    share = 0.5 * (_log_snr(there) - now) / (now - _log_snr(last_rates))
    return x0 + share * (x0 - last_x0)


def integrate(x, here, there, estimates):
    """(1) with x0 on the polynomial in λ through estimates (x0, rates), the first of them here.

    The polynomial is Newton's, Σ_k f[0 … k] Π_{i<k} (r − r_i), and ∫₀ʰ e^{r − h} r^k dr is
    M_0 = 1 − e^{−h}, M_k = h^k − k M_{k−1}. The oldest is the last, so that r_i = −∞, no signal,
    is in no product, only divides a difference, which it makes 0.
    """
    now = _log_snr(here)
    h = _log_snr(there) - now
    places = [0.0] + [_log_snr(rates) - now for _, rates in estimates[1:]]
    moments = [1.0 - _kept(here, there)]
    for k in range(1, len(estimates)):
        moments.append(h**k - k * moments[-1])
    differences, product = [x0 for x0, _ in estimates], [1.0]
    integral = moments[0] * differences[0]
    for k, place in enumerate(places[:-1], start=1):
        pairs = zip(differences[1:], differences[:-1], places[k:], places)
        differences = [(b - a) / (r_b - r_a) for b, a, r_b, r_a in pairs]
        product = [a - place * b for a, b in zip([0.0, *product], [*product, 0.0])]
        integral = integral + sum(map(operator.mul, product, moments)) * differences[0]
    return there.sigma / here.sigma * x + there.alpha * integral


def correct(start, x0, here, history):
    """x here once more, now that it has led to an estimate, x0, of its own.

    Args:
        start: the samples where the step to here began.
        x0: the estimate here.
        here: `Rates`.
        history: the estimates (x0, rates) that were known at the start, the newest first.
    """
    (start_x0, start_rates), *older = history
    if not older:
        return follow(start, 0.5 * (start_x0 + x0), start_rates, here)
    return integrate(start, start_rates, here, (history[0], (x0, here), *older))


def time(rates):
    """u, the time of the rectified flow."""
    return rates.sigma / (rates.alpha + rates.sigma)


def enter(x, rates):
    """x -> y and u."""
    return x / (rates.alpha + rates.sigma), time(rates)


def leave(y, rates):
    """y -> x"""
    return y * (rates.alpha + rates.sigma)


def velocity(denoise, y, rates):
    """dy/du = ε − x0 = (y − x0) / u"""
    return (y - denoise(leave(y, rates), rates).x0) / time(rates)


def _log_snr(rates):
    """λ, half of the logarithm of the signal-to-noise ratio."""
    ratio = rates.alpha / rates.sigma
    return np.log(ratio) if isinstance(ratio, (float, np.generic)) else ops.log(ratio)


def _kept(here, there):
    """e^{−h}"""
    return here.alpha / there.alpha * there.sigma / here.sigma
