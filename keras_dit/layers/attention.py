"""Self-attention with one product for queries, keys and values."""

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.linear import TokenDense
from keras_dit.serialization import register


@register
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention.

    Args:
        num_heads: number of heads H; the width of the tokens has to be a multiple of it.

    Call:
        tokens (B, T, D) -> (B, T, D).

    Raises:
        ValueError: if the width is not a multiple of the heads.

    Reference:
        Vaswani et al., Attention Is All You Need (2017).
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, input_shape):
        width = input_shape[-1]
        if self.num_heads < 1 or width % self.num_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_heads. "
                f"Received: hidden_size={width}, num_heads={self.num_heads}"
            )
        self.qkv = TokenDense(3 * width, dtype=self.dtype_policy, name="qkv")
        self.projection = TokenDense(width, dtype=self.dtype_policy, name="projection")
        self.qkv.build((None, None, width))
        self.projection.build((None, None, width))

    def call(self, tokens):
        _, length, width = tokens.shape
        x = self.qkv.call(tokens)  # (B, T, 3 D)
        x = ops.reshape(x, (-1, length, 3, self.num_heads, width // self.num_heads))
        x = ops.transpose(x, (2, 0, 3, 1, 4))  # (3, B, H, T, D/H)
        x = backend.attention(*ops.unstack(x, axis=0))  # (B, H, T, D/H)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, width))
        return self.projection.call(x)  # (B, T, D)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}
