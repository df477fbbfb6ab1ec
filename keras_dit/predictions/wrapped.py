"""Predictions made of another one, or of the samples too."""

from dataclasses import dataclass, field
from typing import Any

from keras import ops

from keras_dit.predictions.base import Denoised, Prediction
from keras_dit.predictions.direct import DataVelocity, Noise
from keras_dit.schedules import Rates, broadcast
from keras_dit.serialization import register


@register
@dataclass(frozen=True)
class HalfUnused(Prediction):
    """Another prediction, followed by as many channels that mean nothing, as published SiTs have.

    Args:
        used: what the first half of the channels means.

    Example:

    >>> HalfUnused(DataVelocity()).output_channels(4)
    8
    """

    used: Prediction = field(default_factory=DataVelocity)

    @property
    def needs_signal(self) -> bool:
        return self.used.needs_signal

    def output_channels(self, channels: int) -> int:
        return 2 * self.used.output_channels(channels)

    def mean_part(self, output: Any) -> Any:
        return ops.split(output, 2, axis=-1)[0]

    def network_input(self, x_t: Any, rates: Rates) -> Any:
        return self.used.network_input(x_t, rates)

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return self.used.target(x0, noise, rates)

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        return self.used.denoised(self.mean_part(output), x_t, rates)

    def velocity(self, output: Any, x_t: Any, rates: Rates) -> Any:
        return self.used.velocity(self.mean_part(output), x_t, rates)

    def velocity_target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return self.used.velocity_target(x0, noise, rates)

    def sensitivity(self, rates: Rates) -> Any:
        return self.used.sensitivity(rates)


@register
@dataclass(frozen=True)
class Preconditioned(Prediction):
    """The network gives F in x0 = c_skip x_t + c_out F(c_in x_t), all of it of variance 1.

        c_in = 1 / √(α² s² + σ²),   c_skip = α s² c_in²,   c_out = σ s c_in

    for data of deviation s. With `schedules.EDM` this is EDM's preconditioning, its loss weight
    included; on a variance-preserving schedule with s = 1, F is −v.

    Args:
        sigma_data: s, the deviation of the data.

    Example:

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
    >>> rates = keras_dit.schedules.EDM()(0.5)
    >>> output = Preconditioned().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(Preconditioned().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion Models (2022), equation 7.
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        if not 0.0 < self.sigma_data < float("inf"):
            raise ValueError(f"sigma_data must be above 0. Received: sigma_data={self.sigma_data}")

    def network_input(self, x_t: Any, rates: Rates) -> Any:
        return self._factors(broadcast(rates, x_t))[0] * x_t

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        rates = broadcast(rates, x0)
        c_in = self._factors(rates)[0]
        # (x0 − c_skip x_t) / c_out, without the difference of two numbers that are nearly equal
        return c_in * (rates.sigma / self.sigma_data * x0 - rates.alpha * self.sigma_data * noise)

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        _, c_skip, c_out = self._factors(broadcast(rates, x_t))
        return Denoised(c_skip * x_t + c_out * output)

    def sensitivity(self, rates: Rates) -> Any:
        return self._factors(rates)[2]

    def _factors(self, rates):
        signal = self.sigma_data * rates.alpha
        c_in = (signal * signal + rates.sigma * rates.sigma) ** -0.5
        c_skip = signal * self.sigma_data * c_in * c_in
        return c_in, c_skip, rates.sigma * self.sigma_data * c_in


@register
@dataclass(frozen=True)
class LearnedVariance(Prediction):
    """Another prediction, followed by as many channels that say where the variance lies.

    Those channels, in [−1, 1], are 2 v − 1 with v the `variance_fraction`.

    Example:

    >>> rates = keras_dit.schedules.LinearBeta()(0.5)
    >>> output = ops.convert_to_tensor([[[0.0, 1.0]]])  # the noise, and where the variance lies
    >>> x0, fraction = LearnedVariance().denoised(output, ops.zeros((1, 1, 1)), rates)
    >>> float(x0[0, 0, 0]), float(fraction[0, 0, 0])
    (0.0, 1.0)

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), equation 15.
    """

    mean: Prediction = field(default_factory=Noise)

    @property
    def needs_signal(self) -> bool:
        return self.mean.needs_signal

    def output_channels(self, channels: int) -> int:
        return 2 * self.mean.output_channels(channels)

    def mean_part(self, output: Any) -> Any:
        return ops.split(output, 2, axis=-1)[0]

    def network_input(self, x_t: Any, rates: Rates) -> Any:
        return self.mean.network_input(x_t, rates)

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return self.mean.target(x0, noise, rates)

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        mean, variance = ops.split(output, 2, axis=-1)
        return Denoised(self.mean.denoised(mean, x_t, rates).x0, (variance + 1.0) / 2.0)

    def sensitivity(self, rates: Rates) -> Any:
        return self.mean.sensitivity(rates)
