"""What a block does to each token by itself."""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.linear import TokenDense, gelu_tanh
from keras_dit.serialization import register


class _TwoMaps(keras.layers.Layer):
    """What MLP and SwiGLU share: a linear map to a wider layer, one back, something between."""

    def __init__(self, ratio: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio

    def _build(self, input_shape, units, hidden, activation=None):
        tokens, width, dtype = input_shape[:-1], input_shape[-1], self.dtype_policy
        self.mlp_in = TokenDense(units, activation=activation, dtype=dtype, name="mlp_in")
        self.mlp_out = TokenDense(width, dtype=dtype, name="mlp_out")
        self.mlp_in.build(input_shape)
        self.mlp_out.build((*tokens, hidden))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio}


@register
class MLP(_TwoMaps):
    """Two linear maps with an activation between them: the transformer's feed-forward layer.

    Args:
        ratio: width of the hidden layer over that of the tokens.
        activation: a function or the name of one of Keras's; None is the tanh form of GELU.

    Call:
        tokens (B, T, D) -> (B, T, D).

    Example:

    >>> MLP(ratio=2.0)(np.ones((1, 5, 8))).shape
    (1, 5, 8)

    Reference:
        Vaswani et al., Attention Is All You Need (2017), section 3.3.
    """

    def __init__(self, ratio: float = 4.0, activation: Any = None, **kwargs):
        super().__init__(ratio, **kwargs)
        self.activation = keras.activations.get(activation or gelu_tanh)

    def build(self, input_shape: tuple) -> None:
        hidden = int(input_shape[-1] * self.ratio)
        self._build(input_shape, hidden, hidden, self.activation)

    def call(self, tokens: Any) -> Any:
        hidden = backend.call_layer(self.mlp_in, tokens)  # (B, T, R D)
        return backend.call_layer(self.mlp_out, hidden)  # (B, T, D)

    def get_config(self) -> dict:
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}


@register
class SwiGLU(_TwoMaps):
    """An MLP whose hidden layer is one linear map of the tokens times SiLU of another.

        SwiGLU(x) = (SiLU(x W₁) · x W₂) W₃

    Args:
        ratio: that of the `MLP` with as many parameters: the hidden layer has 2/3 of its width.

    Call:
        tokens (B, T, D) -> (B, T, D).

    Example:

    >>> layer = SwiGLU()
    >>> layer(np.ones((1, 5, 12))).shape, layer.mlp_out.kernel.shape
    ((1, 5, 12), (32, 12))

    Reference:
        Shazeer: GLU Variants Improve Transformer (2020), equation 6.
    """

    def build(self, input_shape: tuple) -> None:
        hidden = int(input_shape[-1] * self.ratio * 2 / 3)
        self._build(input_shape, 2 * hidden, hidden)

    def call(self, tokens: Any) -> Any:
        gate, value = ops.split(backend.call_layer(self.mlp_in, tokens), 2, axis=-1)
        return backend.call_layer(self.mlp_out, ops.silu(gate) * value)  # (B, T, D)
