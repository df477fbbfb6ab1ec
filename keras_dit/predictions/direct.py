"""Predictions by what the output is: the noise, the image, or a mixture of both.

The equations stand at the head of `predictions.base`.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_dit.predictions.base import Denoised, Prediction
from keras_dit.schedules import Rates, broadcast
from keras_dit.schedules.base import columns
from keras_dit.serialization import register


@register
@dataclass(frozen=True)
class Noise(Prediction):
    """The network gives the noise ε, as DDPM and DiT do.

    Example:

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
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

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
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

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
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

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
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

    >>> x0, noise = ops.full((1, 2), 0.5), ops.ones((1, 2))
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


def _power(rates):
    return rates.alpha * rates.alpha + rates.sigma * rates.sigma
