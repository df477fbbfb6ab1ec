"""What a network's output means, and how it becomes E[x0 | x_t].

With x_t = α x0 + σ ε, a network may be trained to give any of

    noise      ε                     x0 = (x_t − σ ε) / α
    sample     x0
    v          α ε − σ x0            x0 = (α x_t − σ v) / (α² + σ²)
    velocity   ε − x0                x0 = (x_t − σ u) / (α + σ)

(v: Salimans, Ho: Progressive Distillation, 2022; velocity: Liu et al., Rectified Flow, 2022).
Each is linear in x0, so the error of x0 is that of the output times |∂x0/∂output|, which is what
a weighted loss needs to know of a prediction.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from keras_dit.schedules import Rates, broadcast
from keras_dit.schedules.base import columns
from keras_dit.serialization import Configurable, register

__all__ = [
    "CleanSample",
    "DataVelocity",
    "Denoised",
    "FlooredSample",
    "FlowVelocity",
    "HalfUnused",
    "LearnedVariance",
    "Noise",
    "Preconditioned",
    "Prediction",
    "V",
]

# σ below which the velocity of a predicted image is not divided by it (Lu et al., 2026).
LEAST_SIGMA = 0.05


class Denoised(NamedTuple):
    """What a denoiser knows of x_t.

    Attributes:
        x0: E[x0 | x_t], float32 (B, ...).
        variance_fraction: None, or float32 (B, ...): where between its two bounds (0: the
            posterior's variance, 1: β) the logarithm of a DDPM step's variance lies. The
            bounds depend on the step taken, so the solver works them out; this is v of
            Improved DDPM, equation 15.

    Example:

    >>> x0, variance_fraction = Denoised(np.zeros((1, 8, 8, 3)))
    >>> variance_fraction is None
    True
    """

    x0: Any
    variance_fraction: Any = None


class Prediction(Configurable):
    """The meaning of a network's output. Subclasses are frozen dataclasses."""

    example = "predictions.Noise()"

    @property
    def needs_signal(self) -> bool:
        """Whether x0 cannot be had where alpha is 0."""
        return False

    def output_channels(self, channels: int) -> int:
        """How many channels the network has to give for images of `channels`."""
        return channels

    def mean_part(self, output: Any) -> Any:
        """The part of the output that `target` is for: all, unless the variance is learned."""
        return output

    def network_input(self, x_t: Any, rates: Rates) -> Any:
        """What the network is given for x_t: x_t itself, unless the prediction scales it."""
        return x_t

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        """What the output should be, (B, ...)."""
        raise NotImplementedError

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        """`Denoised` from the network's output at x_t, (B, ...)."""
        raise NotImplementedError

    def velocity(self, output: Any, x_t: Any, rates: Rates) -> Any:
        """dx_t/dt of a straight path, (B, ...): (x_t − x0) / σ, with σ of at least 0.05.

        Where that bounds it, `velocity_target` is less than ε − x0 too.
        """
        x0 = self.denoised(output, x_t, rates).x0
        return (x_t - x0) / ops.maximum(broadcast(rates, x_t).sigma, LEAST_SIGMA)

    def velocity_target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        """What `velocity` should be, (B, ...)."""
        sigma = broadcast(rates, x0).sigma
        return (noise - x0) * (sigma / ops.maximum(sigma, LEAST_SIGMA))

    def sensitivity(self, rates: Rates) -> Any:
        """|∂x0/∂output|: how far x0 moves with the output. Shape of the rates."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class Noise(Prediction):
    """The network gives the noise ε, as DDPM and DiT do.

    Example:

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
    >>> rates = keras_dit.schedules.LinearBeta()(0.5)
    >>> output = Noise().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(Noise().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5
    """

    needs_signal = True

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return noise

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        rates = broadcast(rates, x_t)
        return Denoised((x_t - rates.sigma * output) / rates.alpha)

    def sensitivity(self, rates: Rates) -> Any:
        return rates.sigma / rates.alpha


@register
@dataclass(frozen=True)
class CleanSample(Prediction):
    """The network gives the clean sample x0 itself.

    Example:

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
    >>> rates = keras_dit.schedules.LinearBeta()(0.5)
    >>> output = CleanSample().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(CleanSample().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5
    """

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return x0

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        return Denoised(output)

    def sensitivity(self, rates: Rates) -> Any:
        return ops.ones_like(rates.alpha)


@register
@dataclass(frozen=True)
class FlooredSample(Prediction):
    """The network gives the clean sample, from which the velocity of a straight line is taken.

        velocity = (x_t − output) / max(t, floor),   x0 = x_t − t velocity

    Near t = 0 the division would blow up what the network gets wrong. With the floor, x0 keeps
    there some of the noise of x_t; from t = floor on it is the output.

    Args:
        floor: the least time that is divided by.

    Raises:
        ValueError: if it is not in (0, 1].

    Example:

    >>> x_t, output = ops.ones((1, 2)), ops.zeros((1, 2))
    >>> flow, prediction = keras_dit.schedules.ReversedFlow(), FlooredSample(floor=0.1)
    >>> [float(prediction.denoised(output, x_t, flow(t)).x0[0, 0]) for t in (0.5, 0.05)]
    [0.0, 0.5]

    Reference:
        Li, He: Back to Basics: Let Denoising Generative Models Denoise (2025), equation 6.
    """

    floor: float = 0.05

    def __post_init__(self):
        if not 0.0 < self.floor <= 1.0:
            raise ValueError(f"floor must be in (0, 1]. Received: floor={self.floor}")

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return x0

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        share = columns(self.sensitivity(rates), x_t)
        return Denoised(x_t - share * (x_t - output))

    def sensitivity(self, rates: Rates) -> Any:
        return rates.t / ops.maximum(rates.t, self.floor)


@register
@dataclass(frozen=True)
class V(Prediction):
    """The network gives v = α ε − σ x0.

    Example:

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
    >>> rates = keras_dit.schedules.CosineBeta()(0.5)
    >>> output = V().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(V().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5
    """

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        rates = broadcast(rates, x0)
        return rates.alpha * noise - rates.sigma * x0

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        rates = broadcast(rates, x_t)
        return Denoised((rates.alpha * x_t - rates.sigma * output) / _power(rates))

    def sensitivity(self, rates: Rates) -> Any:
        return rates.sigma / _power(rates)


@register
@dataclass(frozen=True)
class FlowVelocity(Prediction):
    """The network gives u = ε − x0, which for a rectified flow is dx_t/dt.

    Example:

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
    >>> rates = keras_dit.schedules.RectifiedFlow()(0.5)
    >>> output = FlowVelocity().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(FlowVelocity().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5
    """

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return noise - x0

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        rates = broadcast(rates, x_t)
        return Denoised((x_t - rates.sigma * output) / (rates.alpha + rates.sigma))

    def velocity(self, output: Any, x_t: Any, rates: Rates) -> Any:
        return output

    def velocity_target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return noise - x0

    def sensitivity(self, rates: Rates) -> Any:
        return rates.sigma / (rates.alpha + rates.sigma)


@register
@dataclass(frozen=True)
class DataVelocity(Prediction):
    """The network gives x0 − ε, the velocity towards the data, as SiT does.

    Example:

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
    >>> rates = keras_dit.schedules.ReversedFlow()(0.5)
    >>> output = DataVelocity().target(x0, noise, rates)  # what a perfect network gives
    >>> x_t = rates.alpha * x0 + rates.sigma * noise
    >>> round(float(DataVelocity().denoised(output, x_t, rates).x0[0, 0]), 5)
    0.5

    Reference:
        Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models (2024).
    """

    def target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return x0 - noise

    def denoised(self, output: Any, x_t: Any, rates: Rates) -> Denoised:
        return FlowVelocity().denoised(-output, x_t, rates)

    def velocity(self, output: Any, x_t: Any, rates: Rates) -> Any:
        return -output

    def velocity_target(self, x0: Any, noise: Any, rates: Rates) -> Any:
        return noise - x0

    def sensitivity(self, rates: Rates) -> Any:
        return FlowVelocity().sensitivity(rates)


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

    used: Prediction = DataVelocity()

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

    >>> x0, noise = np.full((1, 2), 0.5, "float32"), np.ones((1, 2), "float32")
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

    mean: Prediction = Noise()

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


def _power(rates):
    return rates.alpha * rates.alpha + rates.sigma * rates.sigma
