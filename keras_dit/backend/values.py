"""What the variables of a layer hold, and calls of it with other values in their place."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.backend.host import sent
from keras_dit.backend.selection import BACKEND

if BACKEND == "torch":
    import torch


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


def tensor_beside(array: np.ndarray, other: Any) -> Any:
    """An array as a tensor to compute with beside another one, whatever thread this runs in.

    Torch moves nothing by itself, and `keras.device` reaches only the thread that entered it.
    """
    if BACKEND == "torch":
        return sent(torch.as_tensor(array), other.device)
    return ops.convert_to_tensor(array)


def laid_out(values: Sequence) -> list:
    """Values with the kernels of convolutions in memory as this backend's convolutions read them.

    Args:
        values: tensors; those of four axes are taken for kernels (h, w, I, O).

    Returns:
        A list of tensors of the same shapes and numbers. On torch the kernels are copies, with
        which a convolution of a small image takes a quarter of the time.
    """
    if BACKEND != "torch":
        return list(values)
    return [_laid_out(value) if len(value.shape) == 4 else value for value in values]


def _laid_out(kernel):
    last = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return last.permute(2, 3, 1, 0)


def holding(layer: keras.layers.Layer, values: Sequence) -> keras.StatelessScope:
    """A scope in which a layer's weights hold these values, each in its own dtype.

    `StatelessScope(mapping)` would cast them to the variables' dtypes, for the layers to cast
    them back: two copies of all weights at every evaluation in bfloat16.
    """
    scope = keras.StatelessScope()
    for pair in zip(layer.weights, values, strict=True):
        scope.add_update(pair)
    return scope
