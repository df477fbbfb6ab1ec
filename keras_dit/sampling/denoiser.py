"""Network, schedule and prediction together: E[x0 | x_t]."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops, tree

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
        values = self.bound
        if values is None:
            values = sampling_values(self.network, self.average.values)
        with holding(self.network, values):
            return self.network(x, t, condition, training=False)

    def values(self):
        """What the network's variables hold for sampling; not inside a compiled function.

        The average, where there is one; before its first update the weights, which may have been
        loaded since it was made.
        """
        begun = self.average is not None and self.average.begun
        return sampling_values(self.network, self.average.values if begun else None)

    def bind(self, values):
        """The same with these values, for a compiled function that has them as an argument."""
        return dataclasses.replace(self, bound=values)

    def null(self, condition):
        """The condition "nothing said" for as many samples."""
        count = tree.flatten(condition)[0].shape[0]
        return tree.map_structure(ops.convert_to_tensor, self.network.null(count))


def sampling_values(network, averages=None):
    """What a network's variables hold for sampling, a list of tensors.

    Floating ones are in the dtype that their layer computes in, so that no evaluation casts them.

    Args:
        network: a Keras layer.
        averages: values for `network.weights` in place of their own, or None.
    """
    dtypes = {id(v): v.dtype for v in network.variables}
    for layer in network._flatten_layers():  # each before those within it
        floating = (v for v in layer.variables if keras.backend.is_float_dtype(v.dtype))
        dtypes.update((id(v), layer.compute_dtype) for v in floating)
    held = {id(v): v for v in network.variables}
    if averages is not None:
        weights = (id(weight) for weight in network.weights)
        held.update(zip(weights, averages, strict=True))
    return [ops.cast(held[key], dtype) for key, dtype in dtypes.items()]


def holding(network, values):
    """A scope in which a network's variables hold these values, each in its own dtype.

    `StatelessScope(mapping)` would cast them to the variables' dtypes, for the layers to cast
    them back: two copies of all weights at every evaluation in bfloat16.
    """
    scope = keras.StatelessScope()
    for pair in zip(network.variables, values, strict=True):
        scope.add_update(pair)
    return scope
