"""Schedules given by a table.

A table of DDPM has N = 1000 steps k = 0 … N − 1, which are t = (k + 1) / N here, with
α² = ᾱ_k and σ² = 1 − ᾱ_k (Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, 2020).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit.schedules.base import NoiseSchedule, Rates
from keras_dit.schedules.grids import UniformGrid
from keras_dit.serialization import register


class TableSchedule(NoiseSchedule):
    """A variance-preserving schedule given by the betas of N discrete steps.

    Between two steps the rates are interpolated, so that any t may be asked for.
    """

    grid = UniformGrid()

    @property
    def least_time(self) -> float:
        return 1.0 / self.steps

    def betas(self) -> np.ndarray:
        """The variances β_0 … β_{N−1} of the forward steps, numpy float64 (N,)."""
        raise NotImplementedError

    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_k = ∏_{j ≤ k} (1 − β_j), numpy float64 (N,)."""
        return np.cumprod(1.0 - self.betas())

    def __call__(self, t: Any) -> Any:
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

    def timestep(self, t: Any) -> Any:
        """k = N t − 1, exactly whole at the steps."""
        return self._position(ops.convert_to_tensor(t, "float32")) - 1.0

    def snap(self, t: Any) -> Any:
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

    Example:

    >>> schedule = LinearBeta()
    >>> schedule.betas()[[0, 999]].tolist()
    [0.0001, 0.02]
    >>> float(schedule.timestep(0.5))  # the network is given the number of the step
    499.0

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), section 4.
    """

    steps: int = 1000
    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.start, self.end, self.steps, dtype="float64")


@register
@dataclass(frozen=True)
class ScaledLinearBeta(TableSchedule):
    """√β linear in the step, as in latent diffusion and Stable Diffusion.

    Example:

    >>> [round(float(beta), 5) for beta in ScaledLinearBeta().betas()[[0, 999]]]
    [0.00085, 0.012]

    Reference:
        Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (2022).
    """

    steps: int = 1000
    start: float = 0.00085
    end: float = 0.012

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.start**0.5, self.end**0.5, self.steps, dtype="float64") ** 2


@register
@dataclass(frozen=True)
class CosineBeta(TableSchedule):
    """ᾱ(t) = cos²((t + s) / (1 + s) · π/2) / cos²(s / (1 + s) · π/2), its β at most `largest`.

    Example:

    >>> round(float(CosineBeta()(0.5).alpha) ** 2, 2)  # half of the variance, half-way
    0.49

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), equation 17.
    """

    steps: int = 1000
    offset: float = 0.008
    largest: float = 0.999

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        t = np.arange(self.steps + 1, dtype="float64") / self.steps
        signal = np.cos((t + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return np.minimum(1.0 - signal[1:] / signal[:-1], self.largest)


@register
@dataclass(frozen=True)
class ZeroTerminalSNR(TableSchedule):
    """Another table, with √ᾱ moved and stretched so that its last step has no signal.

    The first step keeps its ᾱ. Without signal the clean sample cannot be had from the noise: the
    prediction has to be `V`, `CleanSample` or `FlowVelocity`.

    Example:

    >>> float(LinearBeta()(1.0).alpha) > 0.006, float(ZeroTerminalSNR(LinearBeta())(1.0).alpha)
    (True, 0.0)

    Reference:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2024),
        algorithm 1.
    """

    schedule: TableSchedule = LinearBeta()

    @property
    def steps(self) -> int:
        return self.schedule.steps

    def betas(self) -> np.ndarray:
        alpha = np.sqrt(self.schedule.alphas_cumprod())
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        signal = np.append(1.0, alpha**2)
        return 1.0 - signal[1:] / signal[:-1]
