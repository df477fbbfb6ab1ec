"""A sequence of embeddings, such as a text encoder gives."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dit.conditions.base import Condition, Context
from keras_dit.layers.linear import TokenDense
from keras_dit.serialization import register


class Sequence(NamedTuple):
    """Sequences of one length: tokens (B, L, size), and which of them are there, bool (B, L)."""

    tokens: Any
    mask: Any


@register
class Tokens(Condition):
    """A sequence of embeddings with its mask -> tokens that the blocks attend to.

    The null value is an empty sequence. In its place, and nowhere else, stands one learned token,
    so that there always is something to attend to.

    Args:
        size: width of an embedding.
        length: number L of places in a sequence; shorter ones are filled up.
        hidden_size, dropout: as for every `Condition`.

    Call:
        `Sequence` of tokens (B, L, size) and mask (B, L), or tokens alone, all of which are there
        -> `Context` with tokens (B, L + 1, D) and a mask.

    Raises:
        ValueError: if size or length is below 1.

    Example:
        >>> import numpy as np
        >>> caption = Tokens(size=6, length=4, hidden_size=8)
        >>> value = caption.check([np.ones((3, 6)), None])   # one of three tokens, one of none
        >>> caption(value).tokens.shape == (2, 5, 8)
        True
    """

    gives_tokens = True

    def __init__(self, size: int, length: int, hidden_size: int | None = None, **kwargs):
        super().__init__(hidden_size, **kwargs)
        for name, value in (("size", size), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of 1 or more. Received: {name}={value!r}"
                )
        self.size, self.length = size, length

    def build(self, input_shape: tuple | None = None) -> None:
        self.projection = TokenDense(self.hidden_size, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, self.length, self.size))
        self.null_token = self.add_weight(
            shape=(1, 1, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="null_token",
        )

    def check(self, values: Any, count: int | None = None) -> Sequence:
        """A `Sequence` of numpy float32 and bool.

        Values may be one, an array (n, l, size) with l up to the length, or a list of arrays
        (l, size) of their own lengths; None in a list stands for the empty sequence.
        """
        tokens, mask = values if isinstance(values, tuple) and len(values) == 2 else (values, None)
        if mask is None:
            rows = [np.zeros((0, self.size)) if row is None else np.asarray(row) for row in tokens]
            masks = [np.ones(len(row), bool) if row.ndim else row for row in rows]
        else:
            rows, masks = list(np.asarray(tokens)), list(np.asarray(mask, bool))
        if count is not None and len(rows) != count:
            raise ValueError(f"{self.name} must be {count} in number. Received: {len(rows)}")
        result = self.null(len(rows))
        for i, (row, there) in enumerate(zip(rows, masks, strict=True)):
            if row.ndim != 2 or row.shape[1] != self.size or len(row) > self.length:
                raise ValueError(
                    f"{self.name} must be sequences of at most {self.length} embeddings of "
                    f"{self.size} numbers each. Received: shape {row.shape} at index {i}"
                )
            result.tokens[i, : len(row)] = np.where(there[:, None], row, 0.0)
            result.mask[i, : len(row)] = there
        if not np.isfinite(result.tokens).all():
            raise ValueError(f"{self.name} must be finite numbers")
        return result

    @property
    def places(self) -> int:
        return self.length + 1

    def null(self, count: int) -> Sequence:
        tokens = np.zeros((count, self.length, self.size), "float32")
        return Sequence(tokens, np.zeros((count, self.length), bool))

    def prepare(self, values: Any) -> Any:
        tokens, mask = values if isinstance(values, (tuple, list)) else (values, None)
        tokens = ops.cast(tokens, "float32")
        mask = ops.ones_like(tokens[..., 0]) if mask is None else mask
        return Sequence(tokens, ops.cast(mask, "bool"))

    def embed(self, values: Any) -> Any:
        tokens, mask = values
        x = self.projection(ops.cast(tokens, self.compute_dtype))  # (B, L, D)
        null = ops.cast(self.null_token, self.compute_dtype)
        null = ops.broadcast_to(null, ops.shape(x[:, :1]))
        empty = ops.logical_not(ops.any(mask, axis=1, keepdims=True))
        return Context(
            tokens=ops.concatenate([null, x], axis=1),  # (B, L + 1, D)
            mask=ops.concatenate([empty, mask], axis=1),  # (B, L + 1)
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size, "length": self.length}
