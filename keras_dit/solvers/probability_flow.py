"""What a solver's step is made of: the probability flow between two times.

Along the flow, with λ = log(α / σ), half of the logarithm of the signal-to-noise ratio, and
h = λ_s − λ_t,

    x_s = σ_s / σ_t x_t + α_s ∫₀ʰ e^{r − h} x0(λ_t + r) dr                                  (1)

(Lu et al., DPM-Solver++, 2022, proposition 4.1). A run's first time may have no signal, λ = −∞.
Divided by α + σ every schedule is a rectified flow, y = (1 − u) x0 + u ε with u = σ / (α + σ),
whose velocity is dy/du = ε − x0. All of it is plain arithmetic, for tensors and numpy arrays.
"""

import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_dit.schedules import Rates

# How large the ratio of a step to the last one may be, and how long the step in λ, for x0 to be
# taken from a polynomial through so many estimates: measured, tests/test_coarse_runs.py.
LIMITS = {2: (3.0, 1.5), 3: (1.5, 0.8)}


def fresh(here: Rates, there: Rates) -> Any:
    """The share of x's noise variance that the forward process adds from there to here.

    σ_t² times it is the variance of that process, DDPM's β; σ_s² times it is the variance of
    the posterior q(x_s | x_t, x0), Ho et al. (2020), equation 7, for any two times.
    """
    kept = _kept(here, there)
    return (1.0 - kept) * (1.0 + kept)


def follow(x: Any, x0: Any, here: Rates, there: Rates) -> Any:
    """(1) with x0 fixed: the noise that x holds is kept."""
    return there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)


def renew(x: Any, x0: Any, here: Rates, there: Rates, noise: Any) -> Any:
    """A draw from q(x_s | x_t, x0)."""
    share = fresh(here, there)
    keep = _kept(here, there) * there.sigma / here.sigma
    return keep * x + there.alpha * share * x0 + there.sigma * share**0.5 * noise


class History(NamedTuple):
    """The estimates of the last steps, in a fixed number of places, the newest first.

    Attributes:
        count: how many it has been given so far, a scalar.
        x0: the estimates, (B, ...) each; zeros where there is none yet.
        log_snr: λ of each, scalars; zeros where there is none yet.
    """

    count: Any
    x0: tuple
    log_snr: tuple

    @classmethod
    def empty(cls, x: Any, places: int) -> Any:
        """One without estimates."""
        array = _arrays(x)
        none = array.zeros_like(x)
        zero = array.sum(none)  # a scalar of the same dtype
        return cls(zero, (none,) * places, (zero,) * places)

    @property
    def estimates(self) -> list:
        """Pairs (x0, λ)."""
        return list(zip(self.x0, self.log_snr))

    def add(self, x0: Any, rates: Rates) -> Any:
        """The same with an estimate more, and without the oldest."""
        now = log_snr(rates)
        return History(self.count + 1.0, (x0, *self.x0[:-1]), (now, *self.log_snr[:-1]))


class Step(NamedTuple):
    """What a solver that corrects its steps remembers of the last one.

    Attributes:
        x, rates: where it began.
        history: the estimates that it used.
    """

    x: Any
    rates: Rates
    history: History

    @classmethod
    def none(cls, x: Any, places: int) -> Any:
        """That before the first step."""
        history = History.empty(x, places)
        one = history.count + 1.0
        return cls(x, Rates(one, one, one), history)


def usable(history: Any, there: Rates) -> Any:
    """How many of the estimates the step from the newest one to `there` can do with, a scalar.

    A polynomial through estimates that are close together, followed over a step that is long
    against their distances, multiplies their errors: by 1 + r on the line, where r is the ratio
    of this step to the last, and by much more on the parabola. Over a step that is long in λ, x0
    is no polynomial at all. So estimates count as far as `LIMITS` allows.
    """
    array = _arrays(history.x0[0])
    times = [log_snr(there), *history.log_snr]
    steps = [a - b for a, b in itertools.pairwise(times)]
    ratios = [a / array.where(b > 0.0, b, 1.0) for a, b in itertools.pairwise(steps)]
    order = 1.0
    for held in range(2, len(history.x0) + 1):
        ratio, length = LIMITS[held]
        counts = (history.count >= held) & (steps[0] <= length)
        for one in ratios[: held - 1]:
            counts = counts & (one <= ratio)
        order = array.where(counts, 1.0 * held, order)
    return order


def ahead(history: Any, there: Rates) -> Any:
    """x0 half a step ahead in λ, on the line through the last two estimates, if both are usable."""
    if len(history.x0) == 1:
        return history.x0[0]
    x0, last = history.x0[:2]
    now, before = history.log_snr[:2]
    share = 0.5 * (log_snr(there) - now) / (now - before)
    return x0 + _arrays(x0).where(usable(history, there) >= 2.0, share, 0.0) * (x0 - last)


def integrate(x: Any, here: Rates, there: Rates, estimates: Any, order: int) -> Any:
    """(1) with x0 on the polynomial in λ through the first estimates, `order` of them.

    The polynomial is Newton's, Σ_k f[0 … k] Π_{i<k} (r − r_i), and ∫₀ʰ e^{r − h} r^k dr is
    M_0 = 1 − e^{−h}, M_k = h^k − k M_{k−1}. Of those that count the oldest is the last, so that
    r_i = −∞, no signal, is in no product, only divides a difference, which it makes 0.

    Args:
        x: the samples here.
        here, there: `Rates`.
        estimates: pairs (x0, λ), the first of them here.
        order: how many count, a scalar.
    """
    where, now = _arrays(x).where, log_snr(here)
    h = log_snr(there) - now
    moments = [1.0 - _kept(here, there)]
    for k in range(1, len(estimates)):
        moments.append(h**k - k * moments[-1])
    differences = [x0 for x0, _ in estimates]
    places = [place - now for _, place in estimates]
    places[0], product = 0.0, [1.0]
    integral = moments[0] * differences[0]
    for k, place in enumerate(places[:-1], start=1):
        counts = order > k
        inverses = [where(counts, 1.0 / (b - a), 0.0) for b, a in zip(places[k:], places)]
        pairs = zip(differences[1:], differences[:-1], inverses)
        differences = [(b - a) * inverse for b, a, inverse in pairs]
        product = [a - place * b for a, b in zip([0.0, *product], [*product, 0.0])]
        weight = where(counts, sum(map(operator.mul, product, moments)), 0.0)
        integral = integral + weight * differences[0]
    return there.sigma / here.sigma * x + there.alpha * integral


def predict(x: Any, here: Rates, there: Rates, history: Any) -> Any:
    """The step from here, where the newest estimate is, with as many as are usable.

    On the line through two it takes x0 half-way, where the parabola takes the integral (1): for
    long steps that is the safer of the two, of the same order.
    """
    end = follow(x, ahead(history, there), here, there)
    if len(history.x0) < 3:
        return end
    third = usable(history, there) == 3.0
    return choose(third, integrate(x, here, there, history.estimates, choose(third, 3.0, 1.0)), end)


def correct(x: Any, x0: Any, here: Rates, last: Any, wanted: Any) -> Any:
    """x here once more, now that it has led to an estimate, x0, of its own.

    Args:
        x: the samples here, as the last step predicted them.
        x0: the estimate here.
        here: `Rates`.
        last: the `Step` that led here.
        wanted: whether to correct at all, a scalar.
    """
    history = last.history
    here = Rates(*(choose(wanted, rate, 1.0) for rate in here))  # so that no branch is NaN
    order = usable(history, here)
    mean = follow(last.x, 0.5 * (history.x0[0] + x0), last.rates, here)
    newest, *older = history.estimates
    estimates = [newest, (x0, log_snr(here)), *older]
    count = choose(order > 1.0, order + 1.0, 1.0)
    better = integrate(last.x, last.rates, here, estimates, count)
    return choose(wanted, choose(order > 1.0, better, mean), x)


def choose(condition: Any, x: Any, y: Any) -> Any:
    """x where a scalar condition holds, else y; any of them may be a number of Python."""
    plain = all(_arrays(one) is np for one in (condition, x, y))
    return (np if plain else ops).where(condition, x, y)


def time(rates: Rates) -> Any:
    """u, the time of the rectified flow."""
    return rates.sigma / (rates.alpha + rates.sigma)


def enter(x: Any, rates: Rates) -> Any:
    """x -> y and u."""
    return x / (rates.alpha + rates.sigma), time(rates)


def leave(y: Any, rates: Rates) -> Any:
    """y -> x"""
    return y * (rates.alpha + rates.sigma)


def velocity(denoise: Callable, y: Any, rates: Rates) -> Any:
    """dy/du = ε − x0 = (y − x0) / u"""
    return (y - denoise(leave(y, rates), rates).x0) / time(rates)


def log_snr(rates: Rates) -> Any:
    """λ = log(α / σ); twice it is the logarithm of the signal-to-noise ratio α² / σ²."""
    return _arrays(rates.alpha).log(rates.alpha / rates.sigma)


def _arrays(x):
    """What computes with x: numpy on numpy's numbers, in their precision, else `keras.ops`."""
    return np if isinstance(x, (bool, float, np.ndarray, np.generic)) else ops


def _kept(here, there):
    """e^{−h}"""
    return here.alpha / there.alpha * there.sigma / here.sigma
