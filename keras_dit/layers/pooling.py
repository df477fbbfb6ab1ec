"""One vector for a sequence of tokens.

pooled = W mean(tokens that are there),   0 where none is
"""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.linear import TokenDense
from keras_dit.serialization import register


@register
class MeanPooling(keras.layers.Layer):
    """A linear map, without bias, of the mean of those tokens that are there.

    Of no token the mean is 0, and so is what it gives.

    Call:
        tokens (B, L, D), mask (B, L), bool: which of them are there; None: all of them
        -> vectors (B, D).

    Example:

    >>> MeanPooling()(np.ones((2, 3, 8)), np.array([[True, True, False]] * 2)).shape
    (2, 8)

    Reference:
        Saharia et al.: Photorealistic Text-to-Image Diffusion Models (2022), section 2.3.
    """

    def build(self, tokens_shape: tuple, mask_shape: Any = None) -> None:
        width = tokens_shape[-1]
        self.projection = TokenDense(
            width, use_bias=False, dtype=self.dtype_policy, name="projection"
        )
        self.projection.build((None, width))

    def call(self, tokens: Any, mask: Any = None) -> Any:
        if mask is None:
            return backend.call_layer(self.projection, ops.mean(tokens, axis=1))
        there = ops.cast(ops.expand_dims(mask, -1), tokens.dtype)  # (B, L, 1)
        count = ops.maximum(ops.sum(there, axis=1), 1)
        # What is not there may be anything, NaN too.
        kept = ops.where(there > 0, tokens, ops.zeros_like(tokens))
        return backend.call_layer(self.projection, ops.sum(kept, axis=1) / count)  # (B, D)

    def compute_output_shape(self, tokens_shape: tuple, mask_shape: Any = None) -> tuple:
        return (tokens_shape[0], tokens_shape[-1])

    def get_config(self) -> dict:
        return super().get_config()  # not the one that Keras makes of arguments, as of a policy
