"""Noise schedules: how much signal and how much noise there is at time t.

    x_t = α(t) x0 + σ(t) ε,   ε ~ N(0, I),   t ∈ [0, 1]: 0 is data, 1 is noise.

A table of DDPM has N = 1000 steps k = 0 … N − 1, which are t = (k + 1) / N here, with
α² = ᾱ_k and σ² = 1 − ᾱ_k (Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, 2020).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_dit.serialization import Configurable, register


class Rates(NamedTuple):
    """The time and its two rates, float32 tensors: scalars, or (B,) with one for each sample."""

    t: Any
    alpha: Any
    sigma: Any


def broadcast(rates, x):
    """Rates whose alpha and sigma multiply a tensor of samples.

    Args:
        rates: `Rates` of scalars or of shape (B,).
        x: tensor (B, ...).

    Returns:
        `Rates` of scalars as they came, or of shape (B, 1, ..., 1).
    """
    if len(rates.alpha.shape) == 0:
        return rates
    shape = (-1,) + (1,) * (len(x.shape) - 1)
    return Rates(rates.t, ops.reshape(rates.alpha, shape), ops.reshape(rates.sigma, shape))


class NoiseSchedule(Configurable):
    """A noise schedule: t -> `Rates`. Subclasses are frozen dataclasses."""

    steps = None  # the number of times it distinguishes; None: time is continuous

    def __call__(self, t):
        """The rates at t.

        Args:
            t: times in [0, 1], a float, array or tensor of any shape.

        Returns:
            `Rates` of float32 tensors of that shape.
        """
        raise NotImplementedError

    def timestep(self, t):
        """The number that the network is given for time t, float32 of t's shape."""
        raise NotImplementedError

    def snap(self, t):
        """The time that stands for t in training and in sampling: of a table, the next step up."""
        return ops.convert_to_tensor(t, "float32")


class TableSchedule(NoiseSchedule):
    """A variance-preserving schedule given by the betas of N discrete steps.

    Between two steps the rates are interpolated, so that any t may be asked for.
    """

    def betas(self):
        """The variances β_0 … β_{N−1} of the forward steps, numpy float64 (N,)."""
        raise NotImplementedError

    def alphas_cumprod(self):
        """ᾱ_k = ∏_{j ≤ k} (1 − β_j), numpy float64 (N,)."""
        return np.cumprod(1.0 - self.betas())

    def __call__(self, t):
        t = ops.convert_to_tensor(t, "float32")
        signal = np.concatenate([[1.0], self.alphas_cumprod()])
        position = self._position(t)
        low = ops.clip(ops.floor(position), 0.0, self.steps - 1.0)
        weight = position - low
        index = ops.cast(low, "int32")
        alpha = _interpolate(np.sqrt(signal), index, weight)
        sigma = _interpolate(np.sqrt(1.0 - signal), index, weight)
        norm = ops.sqrt(alpha * alpha + sigma * sigma)  # 1 at the steps, a chord's length between
        return Rates(t, alpha / norm, sigma / norm)

    def timestep(self, t):
        """k = N t − 1, exactly whole at the steps."""
        return self._position(ops.convert_to_tensor(t, "float32")) - 1.0

    def snap(self, t):
        t = ops.convert_to_tensor(t, "float32")
        return ops.clip(ops.ceil(t * self.steps - 1e-3), 1.0, self.steps) / self.steps

    def _position(self, t):
        # float32 holds k / N only to rounding: without this, step 699 would be 699.99994 − 1.
        position = t * float(self.steps)
        nearest = ops.round(position)
        return ops.where(ops.abs(position - nearest) < 1e-3, nearest, position)


def _interpolate(table, index, weight):
    table = ops.convert_to_tensor(table.astype("float32"))
    return (1.0 - weight) * ops.take(table, index) + weight * ops.take(table, index + 1)


def _check_betas(schedule):
    if schedule.steps < 1:
        raise ValueError(f"steps must be at least 1. Received: steps={schedule.steps}")
    betas = schedule.betas()
    if not (np.all(betas > 0) and np.all(betas < 1)):
        raise ValueError(f"every beta must lie between 0 and 1. Received: {schedule}")


@register
@dataclass(frozen=True)
class LinearBeta(TableSchedule):
    """DDPM's table, β linear in the step: what DiT was published with.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), section 4.
    """

    steps: int = 1000
    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self):
        _check_betas(self)

    def betas(self):
        return np.linspace(self.start, self.end, self.steps, dtype="float64")


@register
@dataclass(frozen=True)
class ScaledLinearBeta(TableSchedule):
    """√β linear in the step, as in latent diffusion and Stable Diffusion.

    Reference:
        Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2022).
    """

    steps: int = 1000
    start: float = 0.00085
    end: float = 0.012

    def __post_init__(self):
        _check_betas(self)

    def betas(self):
        return np.linspace(self.start**0.5, self.end**0.5, self.steps, dtype="float64") ** 2


@register
@dataclass(frozen=True)
class CosineBeta(TableSchedule):
    """ᾱ(t) = cos²((t + s) / (1 + s) · π/2) / cos²(s / (1 + s) · π/2), its β at most `largest`.

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), equation 17.
    """

    steps: int = 1000
    offset: float = 0.008
    largest: float = 0.999

    def __post_init__(self):
        _check_betas(self)

    def betas(self):
        t = np.arange(self.steps + 1, dtype="float64") / self.steps
        signal = np.cos((t + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return np.minimum(1.0 - signal[1:] / signal[:-1], self.largest)


@register
@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """The straight line from data to noise: α = 1 − t, σ = t. The network is given 1000 t.

    Reference:
        Liu et al., Flow Straight and Fast (2022); Lipman et al., Flow Matching (2022).
    """

    def __call__(self, t):
        t = ops.convert_to_tensor(t, "float32")
        return Rates(t, 1.0 - t, t)

    def timestep(self, t):
        return 1000.0 * ops.convert_to_tensor(t, "float32")


@register
@dataclass(frozen=True)
class ReversedFlow(NoiseSchedule):
    """The straight line of `RectifiedFlow`, whose network is given 1 − t, as SiT's is.

    Reference:
        Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models (2024).
    """

    def __call__(self, t):
        t = ops.convert_to_tensor(t, "float32")
        return Rates(t, 1.0 - t, t)

    def timestep(self, t):
        return 1.0 - ops.convert_to_tensor(t, "float32")


class TimeGrid(Configurable):
    """Which times a sampling run visits. Subclasses are frozen dataclasses."""

    def __call__(self, schedule, steps):
        """The times of a run.

        Args:
            schedule: the `NoiseSchedule` that is sampled.
            steps: number of steps, at least 1.

        Returns:
            numpy float32 (steps + 1,), falling from the noisiest time to 0.
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class UniformGrid(TimeGrid):
    """Times equally far apart from 1 to 0, each moved to the schedule's next step up.

    On a table this is what diffusers calls "trailing": the run starts at pure noise whatever
    the number of steps.
    """

    def __call__(self, schedule, steps):
        times = np.linspace(1.0, 0.0, steps + 1)[:-1]
        return np.append(ops.convert_to_numpy(schedule.snap(times)), np.float32(0.0))
