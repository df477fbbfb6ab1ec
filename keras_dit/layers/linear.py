"""The matrix product of a token sequence."""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.serialization import register


@register
def gelu_tanh(x: Any) -> Any:
    """GELU in its tanh form: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).

    Example:

    >>> round(float(gelu_tanh(ops.convert_to_tensor(1.0))), 4)
    0.8412
    """
    return ops.gelu(x, approximate=True)


@register
class TokenDense(keras.layers.Dense):
    """A Dense layer that sees one row for each token: (B, T, D) is flattened to (B T, D).

    The arguments and numbers are those of `keras.layers.Dense`. The gradient of the kernel then
    contracts one axis instead of two, which XLA does on a CPU at more than twice the speed; and the
    activation `gelu_tanh` is one operation with the product.

    Example:

    >>> layer = TokenDense(3, activation="relu", use_bias=False)
    >>> layer(np.ones((2, 5, 4))).shape
    (2, 5, 3)
    """

    def call(self, inputs: Any) -> Any:
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        fused = self.activation is gelu_tanh
        outputs = (backend.linear_gelu if fused else backend.linear)(rows, self.kernel, self.bias)
        if self.activation is not None and not fused:
            outputs = self.activation(outputs)
        return ops.reshape(outputs, (*ops.shape(inputs)[:-1], self.units))

    def quantize(
        self, mode: Any = None, type_check: bool = True, config: dict | None = None
    ) -> None:
        """As `keras.layers.Dense.quantize`, which would refuse any class but its own."""
        super().quantize(mode, type_check=False, config=config)
