"""The DiT block: attention and MLP with adaptive norms that start at zero.

    modulate(x) = norm(x) (1 + scale) + shift
    x ← x + gate₁ attention(modulate₁(x));   x ← x + gate₂ mlp(modulate₂(x))

shift, scale and gate are one linear map of SiLU(vector), whose weights start at zero, so that a
new block is the identity (adaLN-Zero; Peebles, Xie: Scalable Diffusion Models with Transformers,
2023, section 3.2).
"""

import types
from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.attention import SelfAttention
from keras_dit.layers.context import as_context
from keras_dit.layers.mlps import MLP
from keras_dit.layers.modulation import modulation, split
from keras_dit.layers.norms import LayerNorm, modulate
from keras_dit.layers.parts import copy_part, load_parts, save_part, shapes_of_today
from keras_dit.serialization import register


@register
class AdaLNBlock(keras.layers.Layer):
    """A transformer block whose norms and residuals are steered by the conditions' vector.

    A new block returns its tokens unchanged. Its parts are unbuilt layers, which are copied by
    their configuration as `keras.layers.Bidirectional` does, with the dtype policy of the block.

    Args:
        num_heads: heads of the attention; the width of the tokens has to be a multiple of it. Not
            needed where `attention` is given.
        mlp_ratio: width of the MLP's hidden layer over that of the tokens, unless `mlp` is given.
        norm: of the tokens before the attention and before the MLP, or a pair of them; any layer
            (B, T, D) -> (B, T, D). None: `LayerNorm()`.
        attention: called with tokens, context and positions. None: `SelfAttention(num_heads)`.
        mlp: any layer (B, T, D) -> (B, T, D). None: `MLP(mlp_ratio)`.
        cross_attention: an attention of its own to the tokens of the context, between the two,
            such as `CrossAttention(num_heads)`. None: none.

    Call:
        tokens (B, T, D), context, positions -> tokens (B, T, D).
        context: a `Context`, or its vector (B, D) alone.
        positions: (T, 2), row and column of each token, for an attention that asks for them.

    Raises:
        ValueError: if the width is not a multiple of num_heads, or for parts that are no layers.

    Example:

    >>> block = AdaLNBlock(2, norm=RMSNorm(), mlp=SwiGLU())
    >>> block(np.ones((1, 6, 8)), np.ones((1, 8))).shape
    (1, 6, 8)

    Reference:
        Peebles, Xie: Scalable Diffusion Models with Transformers (2023), figure 3.
    """

    def __init__(
        self,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        *,
        norm: Any = None,
        attention: keras.Layer | None = None,
        mlp: keras.Layer | None = None,
        cross_attention: keras.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if attention is None:
            if num_heads is None:
                raise ValueError("num_heads must be given, or attention=. Received: neither")
            attention = SelfAttention(num_heads)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        norms = norm if isinstance(norm, (tuple, list)) else (norm, norm)
        parts = {
            "attention_norm": norms[0] or LayerNorm(),
            "attention": attention,
            "cross_attention": cross_attention,
            "mlp_norm": norms[1] or LayerNorm(),
            "mlp": mlp or MLP(mlp_ratio),
        }
        # They become attributes, which Keras tracks, once the modulation is one: so the weights
        # keep the order that they have in files of 0.1.0.
        self._parts = types.SimpleNamespace(
            **{name: part and copy_part(part, name, self) for name, part in parts.items()}
        )

    @property
    def sees_tokens(self) -> bool:
        """Whether a part of it looks at the tokens of the context."""
        parts = self._parts.attention, self._parts.cross_attention
        return any(getattr(part, "sees_tokens", False) for part in parts)

    # Files of 0.1.0 hold the weights of the MLP under these names.

    @property
    def mlp_in(self) -> keras.Layer:
        return self.mlp.mlp_in

    @property
    def mlp_out(self) -> keras.Layer:
        return self.mlp.mlp_out

    def build(
        self, tokens_shape: tuple, context_shape: Any = None, positions_shape: Any = None
    ) -> None:
        width = tokens_shape[-1]
        context_shape = as_context(context_shape)
        self.modulation = modulation(self, 6, width)
        self.modulation.build((None, (context_shape.vector or tokens_shape)[-1]))
        for name, part in vars(self._parts).items():
            setattr(self, name, part)
        for layer in (self.attention_norm, self.mlp_norm, self.mlp):
            layer.build(tokens_shape)
        self.attention.build(tokens_shape)
        if self.cross_attention is not None:
            self.cross_attention.build(tokens_shape, context_shape)

    def call(self, tokens: Any, context: Any, positions: Any = None) -> Any:
        run, context = backend.call_layer, as_context(context)
        steer = run(self.modulation, ops.silu(context.vector))  # (B, 6 D)
        shift1, scale1, gate1, shift2, scale2, gate2 = split(steer, 6)
        x = modulate(self.attention_norm, tokens, shift1, scale1)
        x = run(self.attention, x, context, positions)
        tokens = backend.multiply_add(x, gate1, tokens)  # (B, T, D)
        if self.cross_attention is not None:
            tokens = tokens + run(self.cross_attention, tokens, context, positions)
        x = run(self.mlp, modulate(self.mlp_norm, tokens, shift2, scale2))
        return backend.multiply_add(x, gate2, tokens)  # (B, T, D)

    def compute_output_shape(
        self, tokens_shape: tuple, context_shape: Any = None, positions_shape: Any = None
    ) -> tuple:
        return tokens_shape

    def build_from_config(self, config: dict) -> None:
        self.build(**shapes_of_today(config))

    def get_config(self) -> dict:
        parts = {name: save_part(part) for name, part in vars(self._parts).items()}
        norm = [parts.pop("attention_norm"), parts.pop("mlp_norm")]
        own = {"num_heads": self.num_heads, "mlp_ratio": self.mlp_ratio, "norm": norm, **parts}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        config = load_parts(config, "norm", "attention", "mlp", "cross_attention")
        if "mlp_epsilon" in config:  # of 0.1.0
            config["norm"] = (LayerNorm(), LayerNorm(config.pop("mlp_epsilon")))
        return cls(**config)
