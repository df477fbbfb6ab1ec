"""The Gaussian chain of DDPM and the variational bound of its likelihood.

With ᾱ of a step and ᾱ′ of the one before it (1 before the first), β = 1 − ᾱ/ᾱ′:

    posterior   q(x_{k−1} | x_k, x0) = N(√ᾱ′ β/(1−ᾱ) x0 + √(1−β) (1−ᾱ′)/(1−ᾱ) x_k, β̃),
                β̃ = β (1−ᾱ′)/(1−ᾱ)
    reverse     p(x_{k−1} | x_k): that mean at E[x0 | x_k]; log variance v log β + (1 − v) log β̃
    bound       L_k = KL(q ‖ p),  L_0 = −log p(x0 | x_1),  L_T = KL(q(x_T | x0) ‖ N(0, I))

(Ho et al., Denoising Diffusion Probabilistic Models, 2020, equations 5 to 7; Nichol, Dhariwal:
Improved Denoising Diffusion Probabilistic Models, 2021, equations 4 to 8 and 15.) Sampling does
not need this: `solvers.DDPM` is a draw from p.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_dit import draws
from keras_dit.schedules import Rates
from keras_dit.schedules.base import columns


class Normal(NamedTuple):
    """A normal distribution of independent numbers, its parts broadcast against each other."""

    mean: Any
    log_variance: Any


class Chain:
    """The steps of a schedule, all of them or some, as DDPM's Markov chain.

    Tables are numpy float64 (N,), entry k for the step to x_{k−1} from x_k.

    Args:
        schedule: a `TableSchedule`.
        steps: which of its steps to keep, integers; None: all. The betas of a chain with fewer
            are those of its longer steps.

    Attributes:
        betas: variances of the forward steps.
        posterior_variance: β̃, 0 at the first step.
        posterior_log_variance: its logarithm, the first step's taken from the second.
        x0_coefficient, x_t_coefficient: of the posterior's mean.

    Example:

    >>> chain = Chain(keras_dit.schedules.LinearBeta())
    >>> round(float(chain.betas[-1]), 6)
    0.02
    >>> Chain(keras_dit.schedules.LinearBeta(), steps=[9, 499, 999]).betas.shape
    (3,)
    """

    def __init__(self, schedule: Any, steps: int | None = None):
        signal = schedule.alphas_cumprod()
        self.schedule = schedule
        self.steps = np.arange(len(signal)) if steps is None else np.unique(steps)
        if len(self.steps) < 2:
            raise ValueError(f"a chain has 2 steps or more. Received: steps={steps}")
        signal = signal[self.steps]
        before = np.append(1.0, signal[:-1])
        self.betas = 1.0 - signal / before
        share = self.betas / (1.0 - signal)
        self.posterior_variance = (1.0 - before) * share
        kept = self.posterior_variance[1:]
        self.posterior_log_variance = np.log(np.append(kept[0], kept))
        self.x0_coefficient = np.sqrt(before) * share
        self.x_t_coefficient = np.sqrt(1.0 - self.betas) * (1.0 - before) / (1.0 - signal)

    def rates(self, k: Any) -> Rates:
        """The `Rates` of steps k, integers of any shape."""
        return self.schedule((self.steps[k] + 1.0) / self.schedule.steps)

    def posterior(self, x0: Any, x_t: Any, k: Any) -> Any:
        """q(x_{k−1} | x_k, x0).

        Args:
            x0, x_t: float32 (B, ...).
            k: the step of each sample, int32 (B,).

        Returns:
            `Normal`.
        """
        mean = _of(self.x0_coefficient, k, x0) * x0 + _of(self.x_t_coefficient, k, x0) * x_t
        return Normal(mean, _of(self.posterior_log_variance, k, x0))

    def reverse(self, denoised: Any, x_t: Any, k: Any, variance_fraction: Any = 0.0) -> Any:
        """p(x_{k−1} | x_k), as the denoiser has it.

        Args:
            denoised: `Denoised` of x_t.
            x_t: float32 (B, ...).
            k: the step of each sample, int32 (B,).
            variance_fraction: where the denoiser has learned none: 0 for β̃ ("fixed small"), 1
                for β ("fixed large"; the first step has β̃'s of the second then too).

        Returns:
            `Normal`.
        """
        low, high = self.posterior_log_variance, np.log(self.betas)
        fraction = denoised.variance_fraction
        if fraction is None:
            fraction = variance_fraction
            high = np.append(low[0], high[1:])
        low, high = _of(low, k, x_t), _of(high, k, x_t)
        mean = self.posterior(denoised.x0, x_t, k).mean
        return Normal(mean, fraction * high + (1.0 - fraction) * low)

    def bound(self, x0: Any, x_t: Any, k: Any, denoised: Any, variance_fraction: Any = 0.0) -> Any:
        """The term of the bound at each sample's step.

        Args:
            x0: clean samples, float32 (B, ...), for the first step 8-bit values in [−1, 1].
            x_t, k, denoised, variance_fraction: as for `reverse`.

        Returns:
            float32 (B,), in bits per dimension.
        """
        reverse = self.reverse(denoised, x_t, k, variance_fraction)
        divergence = _bits(kl(self.posterior(x0, x_t, k), reverse))
        decoder = _bits(-discretized_log_likelihood(x0, reverse))
        return ops.where(k == 0, decoder, divergence)

    def prior(self, x0: Any) -> Any:
        """L_T, the term that no training can lower: float32 (B,), in bits per dimension."""
        rates = self.rates(len(self.steps) - 1)
        last = Normal(rates.alpha * x0, 2.0 * ops.log(rates.sigma))
        return _bits(kl(last, Normal(0.0, 0.0)))


class Bound(NamedTuple):
    """The bound of a batch in bits per dimension, float32; of (B, N) the first step comes first.

    Attributes:
        total: (B,), the sum of all terms and the prior.
        prior: (B,).
        terms: (B, N).
        x0_error: (B, N), mean squared error of the denoised samples.
        noise_error: (B, N), that of the noise that follows from them.
    """

    total: Any
    prior: Any
    terms: Any
    x0_error: Any
    noise_error: Any


def bits_per_dimension(
    denoise: Callable,
    x0: Any,
    chain: Any,
    noise: Any = None,
    seed: Any = 0,
    variance_fraction: Any = 0.0,
) -> Any:
    """The variational bound of −log₂ p(x0), over all steps of a chain.

    Args:
        denoise: (x_t, rates) -> `Denoised`, called as it is; a `guidance.Clipped` one to clip.
        x0: 8-bit values in [−1, 1], float32 (B, ...).
        chain: a `Chain`.
        noise: k -> standard normal noise of x0's shape; None: drawn on the host from the seed.
        seed: integer of 0 or more.
        variance_fraction: as for `Chain.reverse`.

    Returns:
        `Bound` of numpy arrays.

    Example:

    >>> chain = Chain(keras_dit.schedules.LinearBeta(), steps=[0, 499, 999])
    >>> black = ops.full((1, 4), -1.0)
    >>> found = bits_per_dimension(lambda x_t, rates: keras_dit.Denoised(black), black, chain)
    >>> found.terms.shape, bool(found.total[0] < 1.0)  # who knows the image needs few bits
    ((1, 3), True)

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), section 3.
    """
    x0 = ops.convert_to_tensor(x0, "float32")
    noise = noise or (lambda k: _host_noise(seed, k, x0.shape))
    columns = []
    for k in range(len(chain.steps)):
        rates, z = chain.rates(k), ops.convert_to_tensor(noise(k), "float32")
        x_t = rates.alpha * x0 + rates.sigma * z
        denoised = denoise(x_t, rates)
        again = (x_t - rates.alpha * denoised.x0) / rates.sigma
        steps = ops.full((x0.shape[0],), k, dtype="int32")
        term = chain.bound(x0, x_t, steps, denoised, variance_fraction)
        errors = [_mean(ops.square(denoised.x0 - x0)), _mean(ops.square(again - z))]
        columns.append([ops.convert_to_numpy(column) for column in (term, *errors)])
    terms, x0_error, noise_error = (np.stack(column, axis=1) for column in zip(*columns))
    prior = ops.convert_to_numpy(chain.prior(x0))
    return Bound(terms.sum(axis=1) + prior, prior, terms, x0_error, noise_error)


def _host_noise(seed, k, shape):
    return draws.generator(seed, k).standard_normal(tuple(shape), dtype="float32")


def kl(p: Any, q: Any) -> Any:
    """KL(p ‖ q) of two `Normal`s, number by number, in nats."""
    difference = ops.convert_to_tensor(p.log_variance - q.log_variance, "float32")
    distance = ops.square(p.mean - q.mean) * ops.exp(-q.log_variance * ops.ones_like(difference))
    return 0.5 * (ops.exp(difference) - difference - 1.0 + distance)


def discretized_log_likelihood(x: Any, normal: Any) -> Any:
    """log p(x) of 8-bit values: what the normal has between x − 1/255 and x + 1/255, in nats.

    The lowest bin reaches to −∞ and the highest to ∞. The distribution function is the tanh
    approximation that the published losses were computed with.

    Args:
        x: 8-bit values scaled to [−1, 1], float32 (B, ...).
        normal: a `Normal`.

    Example:

    >>> values = ops.linspace(-1.0, 1.0, 256)  # all that there are of 8 bits
    >>> one = discretized_log_likelihood(values, Normal(0.3, ops.full((256,), -2.0)))
    >>> round(float(ops.sum(ops.exp(one))), 4)
    1.0

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), equation 13.
    """
    precision, half = ops.exp(-0.5 * normal.log_variance), 1.0 / 255.0
    offset = x - normal.mean
    lower = -ops.abs(offset)  # by symmetry: in the upper tail the difference would be lost
    between = _distribution((lower + half) * precision) - _distribution((lower - half) * precision)
    lowest = _distribution((half + offset) * precision)
    highest = _distribution((half - offset) * precision)
    mass = ops.where(x < -0.999, lowest, ops.where(x > 0.999, highest, between))
    return ops.log(ops.maximum(mass, 1e-12))


def _distribution(x):
    """P(N(0, 1) < x), nearly: (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    return ops.sigmoid(math.sqrt(8.0 / math.pi) * (x + 0.044715 * x * x * x))


def _of(table, k, x):
    """A table's entries at k, float32, to multiply samples x (B, ...)."""
    entries = ops.take(ops.convert_to_tensor(table.astype("float32")), k)
    return columns(entries, x)


def _mean(x):
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))


def _bits(x):
    return _mean(x) / math.log(2.0)
