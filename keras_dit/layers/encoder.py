"""A transformer block for sequences, some of whose places may be empty.

x ← x + attention(norm(x));   x ← x + mlp(norm(x))
"""

from typing import Any

import keras

from keras_dit import backend
from keras_dit.layers.attention import CrossAttention
from keras_dit.layers.context import Context
from keras_dit.layers.mlps import MLP
from keras_dit.layers.norms import LayerNorm
from keras_dit.serialization import register


@register
class EncoderBlock(keras.layers.Layer):
    """Attention of a sequence's tokens to those of them that are there, and an MLP.

    Args:
        num_heads: of the attention; the width of the tokens has to be a multiple of it.
        mlp_ratio: width of the MLP's hidden layer over that of the tokens.

    Call:
        tokens (B, L, D), mask (B, L), bool: which of them are there; None: all of them
        -> tokens (B, L, D). What is not there changes nothing of the others.

    Raises:
        ValueError: if the width is not a multiple of num_heads.

    Example:

    >>> EncoderBlock(2)(np.ones((1, 3, 8)), np.array([[True, True, False]])).shape
    (1, 3, 8)

    Reference:
        Vaswani et al., Attention Is All You Need (2017); norms first as in Xiong et al., On Layer
        Normalization in the Transformer Architecture (2020).
    """

    def __init__(self, num_heads: int, mlp_ratio: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_ratio = num_heads, mlp_ratio

    def build(self, tokens_shape: tuple, mask_shape: Any = None) -> None:
        options = {"dtype": self.dtype_policy}
        self.attention_norm = LayerNorm(affine=True, name="attention_norm", **options)
        self.attention = CrossAttention(self.num_heads, name="attention", **options)
        self.mlp_norm = LayerNorm(affine=True, name="mlp_norm", **options)
        self.mlp = MLP(self.mlp_ratio, name="mlp", **options)
        for layer in (self.attention_norm, self.mlp_norm, self.mlp):
            layer.build(tokens_shape)
        self.attention.build(tokens_shape, Context(tokens=tokens_shape))

    def call(self, tokens: Any, mask: Any = None) -> Any:
        run = backend.call_layer
        x = run(self.attention_norm, tokens)
        # From the tokens to themselves: a self-attention with maps of its own for keys and values.
        tokens = tokens + run(self.attention, x, Context(tokens=x, mask=mask))
        return tokens + run(self.mlp, run(self.mlp_norm, tokens))  # (B, L, D)

    def compute_output_shape(self, tokens_shape: tuple, mask_shape: Any = None) -> tuple:
        return tokens_shape

    def get_config(self) -> dict:
        own = {"num_heads": self.num_heads, "mlp_ratio": self.mlp_ratio}
        return {**super().get_config(), **own}
