"""Network, schedule and prediction together: E[x0 | x_t]."""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from keras_dit.predictions import Prediction
from keras_dit.schedules import NoiseSchedule


@dataclass(frozen=True)
class Denoiser:
    """E[x0 | x_t] as a network knows it.

    Args:
        network: (x, t, y) -> output; a `DiTModel` or anything called like one, with its
            `num_classes`.
        schedule: says which number the network is given for a time.
        prediction: says what the network's output means.

    Call:
        x_t (B, ...), rates, condition (B,) or None -> `Denoised`.
    """

    network: Callable
    schedule: NoiseSchedule
    prediction: Prediction

    def __call__(self, x_t, rates, condition=None):
        t = ops.broadcast_to(self.schedule.timestep(rates.t), (ops.shape(x_t)[0],))
        output = self.network(x_t, t, condition, training=False)
        return self.prediction.denoised(output, x_t, rates)

    def null(self, condition):
        """The condition "no class" for as many samples."""
        return ops.full_like(condition, self.network.num_classes)
