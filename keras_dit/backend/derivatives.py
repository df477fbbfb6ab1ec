"""The derivative of a function along a direction, in forward mode."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import tree

from keras_dit.backend.kernels import plain_kernels
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf

__all__ = ["forward_derivative"]


def forward_derivative(
    function: Callable, primals: Sequence, tangents: Sequence
) -> tuple[Any, Any]:
    """The value of a function, and its derivative along a direction.

    One pass beside the function's own, whatever the number of arguments (a Jacobian-vector
    product). It may stand in a training step: gradients go through both results. Networks run in
    the plain form of their operations in it, which has such a derivative on every backend.

    Args:
        function: of as many tensors as there are primals, to a nest of tensors.
        primals: floating tensors, where it is taken.
        tangents: tensors of the shapes and dtypes of the primals, the direction.

    Returns:
        The value and the derivative, nests of tensors of one structure.

    Example:
        >>> x, t = ops.convert_to_tensor([3.0]), ops.convert_to_tensor([2.0])
        >>> value, slope = forward_derivative(lambda x, t: x * t, (x, t), (ops.ones(1), 0.0 * t))
        >>> float(value[0]), float(slope[0])
        (6.0, 2.0)
    """
    primals, tangents = tuple(primals), tuple(tangents)
    with plain_kernels():
        if BACKEND == "jax":
            return jax.jvp(function, primals, tangents)
        if BACKEND == "torch":
            return torch.func.jvp(function, primals, tangents)
        with tf.autodiff.ForwardAccumulator(list(primals), list(tangents)) as forward:
            value = function(*primals)
        derivative = tree.map_structure(
            lambda x: forward.jvp(x, tf.UnconnectedGradients.ZERO), value
        )
        return value, derivative
