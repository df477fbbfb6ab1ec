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

from typing import Any, NamedTuple

from keras import ops

from keras_dit.schedules import Rates, broadcast
from keras_dit.serialization import Configurable

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
