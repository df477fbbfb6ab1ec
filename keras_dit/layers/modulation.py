"""How a conditioning vector steers a layer norm: adaLN, and the layer that ends a network."""

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.linear import TokenDense
from keras_dit.layers.patches import unpatchify
from keras_dit.serialization import register

EPSILON = 1e-6  # of the layer norms


def modulation(layer, parts, width):
    """The linear map from a conditioning vector to `parts` vectors, starting at zero."""
    return TokenDense(
        parts * width, kernel_initializer="zeros", dtype=layer.dtype_policy, name="modulation"
    )


def split(modulation, parts):
    """(B, parts D) -> `parts` tensors (B, 1, D), each the same for all tokens of a sample."""
    return ops.split(ops.expand_dims(modulation, 1), parts, axis=-1)


@register
class FinalLayer(keras.layers.Layer):
    """Tokens -> picture: modulated layer norm, a linear map that starts at zero, patches joined.

    Args:
        output_shape: (H, W, O) of the picture.
        patch_size: side p of a patch in pixels.

    Call:
        tokens (B, (H/p) (W/p), D), conditioning (B, D) -> picture (B, H, W, O).
    """

    def __init__(self, output_shape, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.picture_shape = tuple(output_shape)
        self.patch_size = patch_size

    def build(self, tokens_shape, context_shape=None):
        width = tokens_shape[-1]
        self.modulation = modulation(self, 2, width)
        self.projection = TokenDense(
            self.patch_size**2 * self.picture_shape[-1],
            kernel_initializer="zeros",
            dtype=self.dtype_policy,
            name="projection",
        )
        vector_shape = getattr(context_shape, "vector", context_shape) or tokens_shape
        self.modulation.build((None, vector_shape[-1]))
        self.projection.build((None, *tokens_shape[1:]))

    def call(self, tokens, context):
        vector = getattr(context, "vector", context)  # (B, D)
        shift, scale = split(self.modulation.call(ops.silu(vector)), 2)
        x = backend.modulated_layer_norm(tokens, shift, scale, EPSILON)
        patches = self.projection.call(x)  # (B, T, p p O)
        height, width, _ = self.picture_shape
        return unpatchify(patches, height, width, self.patch_size)  # (B, H, W, O)

    def compute_output_shape(self, tokens_shape, context_shape=None):
        return (tokens_shape[0], *self.picture_shape)

    def get_config(self):
        own = {"output_shape": self.picture_shape, "patch_size": self.patch_size}
        return {**super().get_config(), **own}
