"""The DiT block and the last layer, both with adaptive layer norm that starts at zero.

    modulate(x) = LayerNorm(x) (1 + scale) + shift
    x ← x + gate₁ Attention(modulate₁(x));   x ← x + gate₂ MLP(modulate₂(x))

shift, scale and gate are one linear map of SiLU(conditioning), whose weights start at zero, so
that a new block is the identity (adaLN-Zero; Peebles, Xie: Scalable Diffusion Models with
Transformers, 2023, section 3.2).
"""

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.attention import SelfAttention
from keras_dit.layers.linear import TokenDense, TokenDenseGELU
from keras_dit.layers.modulation import EPSILON, modulation, split
from keras_dit.serialization import register


@register
class AdaLNBlock(keras.layers.Layer):
    """A transformer block whose layer norms and residuals are steered by a conditioning vector.

    A new block returns its tokens unchanged.

    Args:
        num_heads: heads of the attention; the width of the tokens has to be a multiple of it.
        mlp_ratio: width of the MLP's hidden layer over that of the tokens.
        mlp_epsilon: epsilon of the layer norm before the MLP; 1e-6 as in DiT, 1e-5 in diffusers.

    Call:
        tokens (B, T, D), a `Context` or its vector (B, D) -> tokens (B, T, D).

    Raises:
        ValueError: if the width is not a multiple of num_heads.

    Reference:
        Peebles, Xie: Scalable Diffusion Models with Transformers (2023), figure 3.
    """

    def __init__(self, num_heads, mlp_ratio=4.0, mlp_epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.mlp_epsilon = mlp_epsilon

    def build(self, tokens_shape, context_shape=None):
        width, dtype = tokens_shape[-1], self.dtype_policy
        self.modulation = modulation(self, 6, width)
        self.attention = SelfAttention(self.num_heads, dtype=dtype, name="attention")
        self.mlp_in = TokenDenseGELU(int(width * self.mlp_ratio), dtype=dtype, name="mlp_in")
        self.mlp_out = TokenDense(width, dtype=dtype, name="mlp_out")
        vector_shape = getattr(context_shape, "vector", context_shape) or tokens_shape
        self.modulation.build((None, vector_shape[-1]))
        for layer in (self.attention, self.mlp_in):
            layer.build((None, *tokens_shape[1:]))
        self.mlp_out.build((None, tokens_shape[1], self.mlp_in.units))

    def call(self, tokens, context, positions=None):
        # call, not __call__: what Keras does around a layer was done for the block, and would take
        # torch, which runs this eagerly, a twentieth of the time of a small network.
        vector = getattr(context, "vector", context)  # (B, D)
        modulation = self.modulation.call(ops.silu(vector))  # (B, 6 D)
        shift1, scale1, gate1, shift2, scale2, gate2 = split(modulation, 6)
        x = self.attention.call(backend.modulated_layer_norm(tokens, shift1, scale1, EPSILON))
        tokens = backend.multiply_add(x, gate1, tokens)  # (B, T, D)
        x = backend.modulated_layer_norm(tokens, shift2, scale2, self.mlp_epsilon)
        x = self.mlp_out.call(self.mlp_in.call(x))
        return backend.multiply_add(x, gate2, tokens)  # (B, T, D)

    def compute_output_shape(self, tokens_shape, context_shape=None):
        return tokens_shape

    def get_config(self):
        own = {
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "mlp_epsilon": self.mlp_epsilon,
        }
        return {**super().get_config(), **own}
