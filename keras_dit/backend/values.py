"""What the variables of a layer hold, and calls of it with other values in their place."""

from collections.abc import Sequence

import keras
from keras import ops


def compute_values(layer: keras.layers.Layer, values: Sequence) -> list:
    """Values in the dtypes that a layer computes in, so that no call casts them again.

    Args:
        layer: any Keras layer.
        values: one for each of `layer.weights`, tensors or variables.

    Returns:
        A list of tensors; integers, and those of a layer that cannot be looked into, as they are.
    """
    dtypes: dict[int, str] = {}
    flatten = getattr(layer, "_flatten_layers", lambda: ())
    for part in flatten():  # each before those within it
        floating = (v for v in part.weights if keras.backend.is_float_dtype(v.dtype))
        dtypes.update((id(v), part.compute_dtype) for v in floating)
    pairs = zip(layer.weights, values, strict=True)
    return [ops.cast(value, dtypes.get(id(v), value.dtype)) for v, value in pairs]


def holding(layer: keras.layers.Layer, values: Sequence) -> keras.StatelessScope:
    """A scope in which a layer's weights hold these values, each in its own dtype.

    `StatelessScope(mapping)` would cast them to the variables' dtypes, for the layers to cast
    them back: two copies of all weights at every evaluation in bfloat16.
    """
    scope = keras.StatelessScope()
    for pair in zip(layer.weights, values, strict=True):
        scope.add_update(pair)
    return scope
