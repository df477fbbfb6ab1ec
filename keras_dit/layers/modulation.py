"""How a conditioning vector steers a layer norm: adaLN, and the layer that ends a network."""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.context import as_context
from keras_dit.layers.linear import TokenDense
from keras_dit.layers.norms import LayerNorm, modulate
from keras_dit.layers.parts import copy_part, load_parts, save_part, shapes_of_today
from keras_dit.layers.patches import unpatchify
from keras_dit.serialization import register


def modulation(layer: keras.Layer, parts: int, width: int) -> keras.Layer:
    """The linear map from a conditioning vector to `parts` vectors, starting at zero."""
    return TokenDense(
        parts * width, kernel_initializer="zeros", dtype=layer.dtype_policy, name="modulation"
    )


def split(modulation: Any, parts: int) -> list:
    """(B, parts D) -> `parts` tensors (B, 1, D), each the same for all tokens of a sample."""
    return ops.split(ops.expand_dims(modulation, 1), parts, axis=-1)


@register
class FinalLayer(keras.layers.Layer):
    """Tokens -> image: modulated layer norm, a linear map that starts at zero, patches joined.

    Args:
        output_shape: (H, W, O) of the image.
        patch_size: side p of a patch in pixels.
        norm: of the tokens, an unbuilt layer; None: `LayerNorm()`.

    Call:
        tokens (B, (H/p) (W/p), D), a `Context` or its vector (B, D) -> image (B, H, W, O). A third
        argument is (H, W) where they are others than those of output_shape.

    Example:

    >>> layer = FinalLayer(output_shape=(4, 6, 3), patch_size=2)
    >>> layer(np.ones((1, 6, 8)), np.ones((1, 8))).shape
    (1, 4, 6, 3)
    """

    def __init__(
        self, output_shape: tuple, patch_size: int, norm: keras.Layer | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        self.image_shape = tuple(output_shape)
        self.patch_size = patch_size
        self.norm = copy_part(norm or LayerNorm(), "norm", self)

    def build(self, tokens_shape: tuple, context_shape: Any = None) -> None:
        width = tokens_shape[-1]
        self.modulation = modulation(self, 2, width)
        self.projection = TokenDense(
            self.patch_size**2 * self.image_shape[-1],
            kernel_initializer="zeros",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm.build(tokens_shape)
        self.modulation.build((None, (as_context(context_shape).vector or tokens_shape)[-1]))
        self.projection.build((None, *tokens_shape[1:]))

    def call(self, tokens: Any, context: Any, size: tuple | None = None) -> Any:
        vector = as_context(context).vector  # (B, D)
        steer = backend.call_layer(self.modulation, ops.silu(vector))  # (B, 2 D)
        x = modulate(self.norm, tokens, *split(steer, 2))
        patches = backend.call_layer(self.projection, x)  # (B, T, p p O)
        height, width = size or self.image_shape[:2]
        return unpatchify(patches, height, width, self.patch_size)  # (B, H, W, O)

    def compute_output_shape(self, tokens_shape: tuple, context_shape: Any = None) -> tuple:
        return (tokens_shape[0], *self.image_shape)

    def build_from_config(self, config: dict) -> None:
        self.build(**shapes_of_today(config))

    def get_config(self) -> dict:
        own = {"output_shape": self.image_shape, "patch_size": self.patch_size}
        return {**super().get_config(), **own, "norm": save_part(self.norm)}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**load_parts(config, "norm"))
