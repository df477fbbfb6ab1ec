"""Network, schedule and prediction together: E[x0 | x_t]."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
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
        prediction: says what the network is given for x_t and what its output means.
        average: the `WeightAverage` that stands for the network's weights, or None.
        bound: what `bind` was given.

    Call:
        x_t (B, ...), rates, condition (B,) or None -> `Denoised`.
    """

    network: Callable
    schedule: NoiseSchedule
    prediction: Prediction
    average: Any = None
    bound: Any = None

    def __call__(self, x_t, rates, condition=None):
        return self.prediction.denoised(self.output(x_t, rates, condition), x_t, rates)

    def output(self, x_t, rates, condition=None):
        """The network's output at x_t."""
        t = ops.broadcast_to(self.schedule.timestep(rates.t), (ops.shape(x_t)[0],))
        x = self.prediction.network_input(x_t, rates)
        if self.bound is None and self.average is None:
            return self.network(x, t, condition, training=False)
        values = self._values(self.average) if self.bound is None else self.bound
        # Every variable is in it, since a scope hides the one around it.
        with keras.StatelessScope(list(zip(self.network.variables, values, strict=True))):
            return self.network(x, t, condition, training=False)

    def values(self):
        """What the network's variables hold for sampling; not inside a compiled function.

        The average, where there is one; before its first update the weights, which may have been
        loaded since it was made. In the dtype that the network computes in, so that no step of a
        run casts them again.
        """
        begun = self.average is not None and self.average.begun
        return self._values(self.average if begun else None)

    def _values(self, average):
        averages = {}
        if average is not None:
            pairs = zip(self.network.weights, average.values, strict=True)
            averages = {id(weight): average for weight, average in pairs}
        return [self._cast(averages.get(id(v), v)) for v in self.network.variables]

    def _cast(self, variable):
        is_float = keras.backend.is_float_dtype(variable.dtype)
        return ops.cast(variable, self.network.compute_dtype if is_float else variable.dtype)

    def bind(self, values):
        """The same with these values, for a compiled function that has them as an argument."""
        return dataclasses.replace(self, bound=values)

    def null(self, condition):
        """The condition "no class" for as many samples."""
        return ops.full_like(condition, self.network.num_classes)
