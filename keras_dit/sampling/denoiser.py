"""Network, schedule and prediction together: E[x0 | x_t]."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops, tree

from keras_dit import backend
from keras_dit.predictions import Denoised, Prediction
from keras_dit.schedules import NoiseSchedule, Rates
from keras_dit.serialization import number

__all__ = ["Denoiser", "with_settings"]


@dataclass(frozen=True)
class Denoiser:
    """E[x0 | x_t] as a network knows it.

    Args:
        network: (x, t, y) -> output; a `DiTModel` or anything called like one, with its
            `num_classes`.
        schedule: says which number the network is given for a time.
        prediction: says what the network is given for x_t and what its output means.
        values: tensors or variables that stand for the network's weights, such as their average;
            None: the weights.

    Call:
        x_t (B, ...), rates, condition (a nest of (B, ...)) or None -> `Denoised`.
        Of a network that is told how far a step goes the rates may be a `schedules.Step`; x0 then
        is where a straight line through its end arrives. `settings` are numbers that the network is
        told, by the names of conditions.

    Example:
        >>> network = keras_dit.DiTModel((8, 8, 1), 2, 16, 1, 2, num_classes=10)
        >>> schedule = keras_dit.schedules.RectifiedFlow()
        >>> denoiser = Denoiser(network, schedule, keras_dit.predictions.FlowVelocity())
        >>> denoiser(ops.zeros((2, 8, 8, 1)), schedule(0.5), ops.zeros((2,), "int32")).x0.shape
        (2, 8, 8, 1)
    """

    network: Any
    schedule: NoiseSchedule
    prediction: Prediction
    values: Any = number(None, compare=False, repr=False)

    def __post_init__(self):
        if self.values is None and isinstance(self.network, keras.layers.Layer):
            object.__setattr__(self, "values", tuple(self.network.weights))

    def __call__(
        self, x_t: Any, rates: Rates, condition: Any = None, settings: Any = None
    ) -> Denoised:
        output = self.output(x_t, rates, condition, settings)
        return self.prediction.denoised(output, x_t, rates)

    def output(
        self, x_t: Any, rates: Rates, condition: Any = None, settings: Any = None, **asked: Any
    ) -> Any:
        """The network's output at x_t; what else is asked for is the network's to give."""
        condition = with_settings(self.network, condition, rates, ops.shape(x_t)[0], settings)
        t = ops.broadcast_to(self.schedule.timestep(rates.t), (ops.shape(x_t)[0],))
        x = self.prediction.network_input(x_t, rates)
        if self.values is None:
            return self.network(x, t, condition, training=False, **asked)
        with backend.holding(self.network, backend.compute_values(self.network, self.values)):
            return self.network(x, t, condition, training=False, **asked)

    def settled(self) -> "Denoiser":
        """The same with the values of now, in the dtypes that the network computes in.

        A run settles its denoiser once, so that no step casts the weights.
        """
        if self.values is None:
            return self
        values = backend.compute_values(self.network, self.values)
        return dataclasses.replace(self, values=values)

    def null(self, condition: Any) -> Any:
        """The condition "nothing said" for as many samples."""
        count = ops.shape(tree.flatten(condition)[0])[0]  # not a number while it is exported

        def repeated(one):
            return ops.broadcast_to(one, (count, *one.shape[1:]))

        return tree.map_structure(repeated, self.network.null(1))


def with_settings(network: Any, condition: Any, rates: Rates, count: Any, settings: Any) -> Any:
    """What the network is told, with what the process sets.

    Args:
        network: a `Network`; "span" among its conditions is told how far a `Step` goes.
        condition: of users, in the form of y; or None.
        rates: `Rates`, or a `Step`.
        count: of samples.
        settings: by the names of other conditions that the process sets, numbers (size,) or
            (count, size); or None.
    """
    if rates.until is not None and "span" in getattr(network, "conditions", ()):
        span = ops.maximum(rates.t - rates.until, 0.0)  # on the way back to noise: an instant
        settings = {"span": ops.expand_dims(span, -1), **(settings or {})}
    if not settings:
        return condition
    values = {n: ops.broadcast_to(v, (count, v.shape[-1])) for n, v in settings.items()}
    return {**network.named(condition), **values}
