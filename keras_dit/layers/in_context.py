"""Tokens beside those of the image, which go through the blocks with them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.serialization import register


@register
class InContextTokens(keras.layers.Layer):
    """Copies of what the conditions say, each with a learned position, in front of the tokens.

    The tokens of the image can look at them as at one another, and they at the image, so that
    they carry more from block to block than the vector that steers the norms.

    Args:
        count: how many copies.

    Call:
        tokens (B, T, D), vector (B, D) or (1, D) -> tokens (B, count + T, D), the copies first.

    Raises:
        ValueError: if count is not an integer of 1 or more.

    Example:

    >>> InContextTokens(3)(np.ones((2, 6, 8)), np.ones((2, 8))).shape
    (2, 9, 8)

    Reference:
        Li, He: Back to Basics: Let Denoising Generative Models Denoise (2025), appendix A.
    """

    def __init__(self, count: int, **kwargs):
        super().__init__(**kwargs)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be an integer of 1 or more. Received: count={count!r}")
        self.count = count

    def build(self, tokens_shape: tuple, vector_shape: Any = None) -> None:
        self.positions = self.add_weight(
            shape=(1, self.count, tokens_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )

    def call(self, tokens: Any, vector: Any) -> Any:
        copies = ops.expand_dims(vector, 1) + self.positions  # (B or 1, count, D)
        copies = ops.broadcast_to(copies, (ops.shape(tokens)[0], *copies.shape[1:]))
        return ops.concatenate([copies, tokens], axis=1)

    def places(self, grid: np.ndarray) -> np.ndarray:
        """Where the tokens lie: the copies at the grid's origin, where rotary positions turn none.

        Args:
            grid: (T, 2), row and column of the image's tokens.

        Returns:
            (count + T, 2), of the grid's dtype.
        """
        return np.concatenate([np.zeros((self.count, 2), grid.dtype), grid])

    def compute_output_shape(self, tokens_shape: tuple, vector_shape: Any = None) -> tuple:
        batch, length, width = tokens_shape
        return (batch, None if length is None else self.count + length, width)

    def get_config(self) -> dict:
        return {**super().get_config(), "count": self.count}
