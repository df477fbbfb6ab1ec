"""A function of a batch, so computed that the number of samples does not show."""

from collections.abc import Callable
from typing import Any

from keras import ops, tree

from keras_dit.backend.selection import BACKEND

PART = 8  # below 16, from which on torch convolves by other kernels on a CPU


def in_parts(function: Callable, x: Any) -> Any:
    """function(x), computed for few samples at a time where more would be rounded otherwise.

    On a CPU torch chooses the kernel of a convolution by the number of samples too. After a
    hundred of them that shows as 1e-5. XLA's do not, nor does anything on a GPU gain by parts.

    Args:
        function: tensor (B, ...) -> a nest of tensors (B, ...), sample by sample.
        x: the tensor (B, ...).
    """
    if BACKEND != "torch" or x.device.type != "cpu":
        return function(x)
    parts = [function(x[i : i + PART]) for i in range(0, x.shape[0], PART)]
    return tree.map_structure(lambda *values: ops.concatenate(values), *parts)
