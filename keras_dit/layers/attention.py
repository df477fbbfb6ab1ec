"""Attention, within an image's tokens and from them to what the conditions say.

A block calls an attention as `attention(tokens, context, positions)`: with the tokens of the image,
the `Context` of the conditions, and the places of the tokens on their grid. Each takes from these
what it needs; one of your own may be any layer with that call.
"""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.context import as_context
from keras_dit.layers.linear import TokenDense
from keras_dit.layers.parts import copy_part, load_parts, save_part
from keras_dit.serialization import register


class _Attention(keras.layers.Layer):
    """What all kinds share: the heads, the norms of query and key, the last linear map."""

    sees_tokens = False  # whether it looks at the tokens of the context

    def __init__(self, num_heads: int, qk_norm=None, qkv_bias=True, head_size=None, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_size = head_size
        self.qkv_bias = qkv_bias
        self.query_norm = self.key_norm = None
        if qk_norm is not None:
            self.query_norm = copy_part(qk_norm, "query_norm", self)
            self.key_norm = copy_part(qk_norm, "key_norm", self)

    def _check_heads(self, width):
        if self.num_heads >= 1 and (self.head_size or 0) >= 1:
            return
        if self.num_heads < 1 or width % self.num_heads or self.head_size is not None:
            raise ValueError(
                "hidden_size must be a multiple of num_heads, or head_size be given, 1 or more. "
                f"Received: hidden_size={width}, num_heads={self.num_heads}, "
                f"head_size={self.head_size}"
            )

    def _head(self, width):
        """The width of a head."""
        return self.head_size or width // self.num_heads

    def _build_ends(self, width, projection_initializer="glorot_uniform"):
        """The norms of queries and keys, and the last linear map."""
        for norm in (self.query_norm, self.key_norm):
            if norm is not None:
                norm.build((None, self.num_heads, None, self._head(width)))
        options = {"kernel_initializer": projection_initializer, "dtype": self.dtype_policy}
        self.projection = TokenDense(width, name="projection", **options)
        self.projection.build((None, None, self.num_heads * self._head(width)))

    def _linear_map(self, inputs, outputs, name):
        """A linear map that is built."""
        options = {"use_bias": self.qkv_bias, "dtype": self.dtype_policy}
        layer = TokenDense(outputs, name=name, **options)
        layer.build((None, None, inputs))
        return layer

    def _heads(self, x, parts):
        """(B, T, parts D) -> `parts` tensors (B, H, T, D/H)."""
        length, width = ops.shape(x)[1], x.shape[-1] // parts
        x = ops.reshape(x, (-1, length, parts, self.num_heads, width // self.num_heads))
        return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), parts, axis=0)

    def _attend(self, q, k, v, mask=None):
        """The tokens (B, T, D) of q that has looked at k and v; mask (B, L): at which of them."""
        x = backend.attention(q, k, v, mask)  # (B, H, T, D/H)
        length, width = ops.shape(q)[2], self.num_heads * v.shape[-1]
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, width))
        return backend.call_layer(self.projection, x)  # (B, T, D)

    def _normalize(self, q, k):
        if self.query_norm is None:
            return q, k
        return backend.call_layer(self.query_norm, q), backend.call_layer(self.key_norm, k)

    def compute_output_shape(self, tokens_shape, context_shape=None, positions_shape=None):
        return tokens_shape

    def get_config(self):
        own = {
            "num_heads": self.num_heads,
            "qk_norm": save_part(self.query_norm),
            "qkv_bias": self.qkv_bias,
        }
        if self.head_size is not None:
            own["head_size"] = self.head_size
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config):
        return cls(**load_parts(config, "qk_norm", "positions"))


@register
class SelfAttention(_Attention):
    """Multi-head attention of tokens to one another, with one product for queries, keys, values.

    Args:
        num_heads: number of heads H; the width of the tokens has to be a multiple of it.
        qk_norm: a norm, such as `RMSNorm()`, of each head's queries and keys, which keeps large
            networks stable in half precision; None: none.
        positions: what turns queries and keys by the places of their tokens, such as `Rotary()`;
            None: nothing.
        qkv_bias: whether the map to queries, keys and values has a bias.
        head_size: width of a head; None: that of the tokens over the heads.

    Call:
        tokens (B, T, D), context (not looked at), positions (T, 2) -> tokens (B, T, D).

    Raises:
        ValueError: if the width is not a multiple of the heads.

    Example:

    >>> layer = SelfAttention(2, qk_norm=RMSNorm(), positions=Rotary())
    >>> layer(np.ones((1, 6, 8)), positions=grid_positions(2, 3)).shape
    (1, 6, 8)

    Reference:
        Vaswani et al., Attention Is All You Need (2017); Henry et al., Query-Key Normalization for
        Transformers (2020).
    """

    def __init__(
        self,
        num_heads: int,
        qk_norm: keras.Layer | None = None,
        positions: Any = None,
        qkv_bias: bool = True,
        head_size: int | None = None,
        **kwargs,
    ):
        super().__init__(num_heads, qk_norm, qkv_bias, head_size, **kwargs)
        self.positions = positions and copy_part(positions, "positions", self)

    def build(
        self, tokens_shape: tuple, context_shape: Any = None, positions_shape: Any = None
    ) -> None:
        width = tokens_shape[-1]
        self._check_heads(width)
        self.qkv = self._linear_map(width, 3 * self.num_heads * self._head(width), "qkv")
        self._build_ends(width)
        if self.positions is not None:
            self.positions.build((None, self.num_heads, None, self._head(width)))

    def call(self, tokens: Any, context: Any = None, positions: Any = None) -> Any:
        return self._attend(*self._qkv(tokens, positions))

    def among(self, tokens: Any, every: Any) -> Any:
        """What the call of `every` (B, L, D) gives at `tokens` (B, T, D), some of those."""
        return self._attend(self._qkv(tokens, None)[0], *self._qkv(every, None)[1:])

    def _qkv(self, tokens, positions):
        """Queries, keys and values (B, H, T, D/H)."""
        q, k, v = self._heads(backend.call_layer(self.qkv, tokens), 3)
        q, k = self._normalize(q, k)
        if self.positions is not None:
            q, k = (backend.call_layer(self.positions, x, positions) for x in (q, k))
        return q, k, v

    def get_config(self) -> dict:
        return {**super().get_config(), "positions": save_part(self.positions)}


@register
class InContextAttention(SelfAttention):
    """Self-attention of a sequence that the tokens of the context have joined.

    The image's tokens look at one another and at those of the context, which go through the same
    linear map and have no place on the grid.

    Args:
        num_heads, qk_norm, positions, qkv_bias, head_size: as for `SelfAttention`.

    Call:
        tokens (B, T, D), context with tokens (B, L, D) and maybe a mask (B, L), positions (T, 2)
        -> tokens (B, T, D).

    Example:

    >>> context = Context(tokens=np.ones((1, 3, 8)), mask=np.array([[True, True, False]]))
    >>> InContextAttention(2)(np.ones((1, 6, 8)), context).shape
    (1, 6, 8)

    Reference:
        Saharia et al.: Photorealistic Text-to-Image Diffusion Models (2022), appendix D.3.1.
    """

    sees_tokens = True

    def call(self, tokens: Any, context: Any = None, positions: Any = None) -> Any:
        context = _with_tokens(context)
        q, k, v = self._qkv(tokens, positions)
        _, own_k, own_v = self._heads(backend.call_layer(self.qkv, context.tokens), 3)
        own_k = self._normalize(own_k, own_k)[1]
        k, v = ops.concatenate([own_k, k], axis=2), ops.concatenate([own_v, v], axis=2)
        mask = context.mask
        if mask is not None:
            there = ops.ones((ops.shape(mask)[0], ops.shape(tokens)[1]), "bool")
            mask = ops.concatenate([ops.cast(mask, "bool"), there], axis=1)
        return self._attend(q, k, v, mask)


@register
class CrossAttention(_Attention):
    """Multi-head attention from the tokens of an image to those of the context.

    The last linear map starts at zero, so that a new layer adds nothing to a block.

    Args:
        num_heads: number of heads H; the width of the tokens has to be a multiple of it.
        qk_norm: a norm of each head's queries and keys, such as `RMSNorm()`; None: none.
        qkv_bias: whether the maps to queries, keys and values have biases.
        head_size: width of a head; None: that of the tokens over the heads.

    Call:
        tokens (B, T, D), context with tokens (B, L, C) and maybe a mask (B, L), or these tokens
        alone -> (B, T, D). Where the mask has nothing there, the attention is 0.

    Example:

    >>> CrossAttention(2)(np.ones((1, 6, 8)), Context(tokens=np.ones((1, 3, 12)))).shape
    (1, 6, 8)

    Reference:
        Chen et al.: PixArt-α (2023), section 2.3.
    """

    sees_tokens = True

    def build(
        self, tokens_shape: tuple, context_shape: Any = None, positions_shape: Any = None
    ) -> None:
        width = tokens_shape[-1]
        self._check_heads(width)
        inner = self.num_heads * self._head(width)
        self.query = self._linear_map(width, inner, "query")
        inputs = _tokens_width(context_shape) or width
        self.key_value = self._linear_map(inputs, 2 * inner, "key_value")
        self._build_ends(width, "zeros")

    def call(self, tokens: Any, context: Any = None, positions: Any = None) -> Any:
        context = _with_tokens(context)
        (q,) = self._heads(backend.call_layer(self.query, tokens), 1)
        k, v = self._heads(backend.call_layer(self.key_value, context.tokens), 2)
        q, k = self._normalize(q, k)
        return self._attend(q, k, v, context.mask)


def _with_tokens(context):
    """A context that has tokens; a tensor alone is the tokens."""
    context = as_context(context)
    if context.tokens is None and context.vector is not None and len(context.vector.shape) == 3:
        context = context._replace(tokens=context.vector)
    if context.tokens is None:
        raise ValueError(
            "this attention needs a context with tokens, which the conditions of a network do not "
            "have. Received: context.tokens=None"
        )
    return context


def _tokens_width(context_shape):
    """Their width in the shape of a context, or None."""
    shape = as_context(context_shape)
    if shape.tokens is None and shape.vector is not None and len(shape.vector) == 3:
        return shape.vector[-1]
    return shape.tokens and shape.tokens[-1]
