"""Schedules given by a formula, in continuous time."""

import math
from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_dit.schedules.base import NoiseSchedule, Rates
from keras_dit.schedules.grids import KarrasGrid, UniformGrid
from keras_dit.serialization import register


@register
@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """The straight line from data to noise: α = 1 − u, σ = u. The network is given 1000 u.

    Args:
        shift: s in u = s t / (1 + (s − 1) t), for training and sampling alike; 1: u = t. The
            larger the images, the more noise it takes to hide them, and the larger s.

    Example:

    >>> _, alpha, sigma = RectifiedFlow()(0.25)
    >>> float(alpha), float(sigma)
    (0.75, 0.25)
    >>> float(RectifiedFlow(shift=3.0)(0.5).sigma)  # half-way there is more noise
    0.75

    Reference:
        Liu et al., Flow Straight and Fast (2022); Lipman et al., Flow Matching (2022); Esser et
        al., Scaling Rectified Flow Transformers (2024), equation 23.
    """

    shift: float = 1.0
    grid = UniformGrid()

    def __post_init__(self):
        if not 0.0 < self.shift < math.inf:
            raise ValueError(f"shift must be above 0. Received: shift={self.shift}")

    def __call__(self, t: Any) -> Any:
        t = ops.convert_to_tensor(t, "float32")
        scale = 1.0 + (self.shift - 1.0) * t
        return Rates(t, (1.0 - t) / scale, self.shift * t / scale)

    def time_of(self, sigma: Any) -> Any:
        sigma = ops.convert_to_tensor(sigma, "float32")
        return sigma / (self.shift + (1.0 - self.shift) * sigma)

    def timestep(self, t: Any) -> Any:
        return 1000.0 * self(t).sigma


@register
@dataclass(frozen=True)
class ReversedFlow(NoiseSchedule):
    """The straight line of `RectifiedFlow`, whose network is given 1 − t, as SiT's is.

    Args:
        noise_scale: s in α = 1 − t, σ = s t, the deviation of the noise at the end of the line.
            The larger the images, the more noise it takes to hide them: JiT has 1 for images of
            256 pixels, 2 for 512, 4 for 1024.

    Example:

    >>> float(ReversedFlow().timestep(0.25))
    0.75
    >>> float(ReversedFlow(noise_scale=2.0)(0.25).sigma)
    0.5

    Reference:
        Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models (2024); Li, He: Back
        to Basics: Let Denoising Generative Models Denoise (2025), section 4.
    """

    noise_scale: float = 1.0
    grid = UniformGrid()

    def __post_init__(self):
        if not 0.0 < self.noise_scale < math.inf:
            raise ValueError(
                f"noise_scale must be above 0. Received: noise_scale={self.noise_scale}"
            )

    def __call__(self, t: Any) -> Any:
        t = ops.convert_to_tensor(t, "float32")
        return Rates(t, 1.0 - t, self.noise_scale * t)

    def time_of(self, sigma: Any) -> Any:
        return ops.convert_to_tensor(sigma, "float32")

    def timestep(self, t: Any) -> Any:
        return 1.0 - ops.convert_to_tensor(t, "float32")


@register
@dataclass(frozen=True)
class EDM(NoiseSchedule):
    """Noise is added and the data stay: α = 1, σ from 0 to sigma_max.

    The network is given log(σ) / 4. Time is σ / (1 + σ), over what that is at sigma_max. So log(σ)
    is all but logit(t), and the paper's log-normal σ is `objectives.LogitNormalTimes(-1.2, 1.2)`.

    Args:
        sigma_max: σ of t = 1.
        sigma_min: the least σ that a grid asks for.

    Example:

    >>> float(EDM()(0.0).sigma), round(float(EDM()(1.0).sigma))
    (0.0, 80)

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion Models (2022), table 1.
    """

    sigma_max: float = 80.0
    sigma_min: float = 0.002
    grid = KarrasGrid()

    def __post_init__(self):
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "sigma_min must be above 0 and below sigma_max. "
                f"Received: sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            )

    @property
    def least_time(self) -> float:
        return (1.0 + 1.0 / self.sigma_max) * self.sigma_min / (1.0 + self.sigma_min)

    def __call__(self, t: Any) -> Any:
        t = ops.convert_to_tensor(t, "float32")
        return Rates(t, ops.ones_like(t), t / (1.0 + 1.0 / self.sigma_max - t))

    def time_of(self, sigma: Any) -> Any:
        sigma = ops.convert_to_tensor(sigma, "float32")
        return (1.0 + 1.0 / self.sigma_max) * sigma / (1.0 + sigma)

    def snap(self, t: Any) -> Any:
        return ops.maximum(ops.convert_to_tensor(t, "float32"), self.least_time)

    def timestep(self, t: Any) -> Any:
        return 0.25 * ops.log(self(t).sigma)
