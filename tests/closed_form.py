"""Data whose E[x0 | x_t] is known, and schedules in closed form, all in numpy float64.

A mixture of isotropic Gaussians, x0 ~ Σ_j w_j N(μ_j, s_j² I), is seen through noise as
x_t | j ~ N(α μ_j, (α² s_j² + σ²) I), so that

    E[x0 | x_t, j] = μ_j + α s_j² / (α² s_j² + σ²) (x_t − α μ_j)

and E[x0 | x_t] is their mean under p(j | x_t). Solvers are plain arithmetic, so they run on these.
"""

import itertools

import numpy as np

from keras_dit import Denoised, Rates

MEANS = np.array([[-1.0, 0.2], [0.9, 0.8], [0.4, -1.1]])
DEVIATIONS = np.array([0.4, 0.3, 0.5])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def cosine(t):
    """A variance-preserving schedule."""
    return Rates(t, np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t))


def edm(t):
    """A variance-exploding one, sigma from 0 to 80."""
    return Rates(t, np.ones_like(t), t / (1 + 1 / 80 - t))


def flow(t):
    """Rectified flow."""
    return Rates(t, 1.0 - t, np.asarray(t))


SCHEDULES = {"vp": cosine, "edm": edm, "flow": flow}


def denoise(x, rates):
    """E[x0 | x_t] of the mixture; x (B, 2)."""
    variance = rates.alpha**2 * DEVIATIONS**2 + rates.sigma**2  # (3,)
    error = x[:, None] - rates.alpha * MEANS  # (B, 3, 2)
    log_share = np.log(WEIGHTS / variance) - np.sum(error**2, axis=-1) / (2 * variance)
    share = np.exp(log_share - log_share.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)  # (B, 3)
    gain = (rates.alpha * DEVIATIONS**2 / variance)[None, :, None]
    return Denoised(np.sum(share[..., None] * (MEANS + gain * error), axis=1))


def moments():
    """The mixture's mean (2,) and covariance (2, 2)."""
    mean = WEIGHTS @ MEANS
    centred = MEANS - mean
    spread = np.einsum("j,ja,jb->ab", WEIGHTS, centred, centred)
    return mean, spread + np.eye(2) * (WEIGHTS @ DEVIATIONS**2)


def noisy(rates, count, seed):
    """x_t of `count` draws from the mixture."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3, count, p=WEIGHTS)
    x0 = MEANS[chosen] + DEVIATIONS[chosen, None] * rng.standard_normal((count, 2))
    return rates.alpha * x0 + rates.sigma * rng.standard_normal((count, 2))


def run(solver, x, rates, seed=0, denoise=denoise):
    """Take a solver's steps through a list of rates, without the denoiser at the end."""
    rng = np.random.default_rng(seed)
    state = solver.init(x)
    for here, there in itertools.pairwise(rates):
        noise = rng.standard_normal(x.shape) if solver.stochastic else None
        x, state = solver.step(denoise, x, here, there, state, noise)
    return x


def transport(x, start, end, schedule, steps=1000):
    """The probability flow from t = start to end, by the classical Runge-Kutta method.

        dx/dt = α' x0 + σ' ε,   ε = (x − α x0) / σ

    with the derivatives of the rates by central differences, so that nothing here is shared
    with the solvers.
    """

    def slope(x, t):
        rates, d = schedule(t), 1e-6
        after, before = schedule(t + d), schedule(t - d)
        x0 = denoise(x, rates).x0
        noise = (x - rates.alpha * x0) / rates.sigma
        d_alpha, d_sigma = after.alpha - before.alpha, after.sigma - before.sigma
        return (d_alpha * x0 + d_sigma * noise) / (2 * d)

    times = np.linspace(start, end, steps + 1)
    for t, s in itertools.pairwise(times):
        h, middle = s - t, (t + s) / 2
        k1 = slope(x, t)
        k2 = slope(x + h / 2 * k1, middle)
        k3 = slope(x + h / 2 * k2, middle)
        k4 = slope(x + h * k3, s)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x
