"""Images <-> sequences of patches."""

from typing import Any

import keras
from keras import ops

from keras_dit.layers.linear import TokenDense
from keras_dit.serialization import register


def patchify(images: Any, patch_size: int) -> Any:
    """Cut images into patches.

    Args:
        images: tensor (B, H, W, C); H and W multiples of the patch size.
        patch_size: side p of a patch in pixels.

    Returns:
        Tensor (B, T, p p C), T = (H/p) (W/p) row by row, a patch in (p, p, C) order.

    Example:

    >>> patchify(np.zeros((1, 8, 8, 3), "float32"), 2).shape
    (1, 16, 12)
    """
    _, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H/p, W/p, p, p, C)
    return ops.reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def unpatchify(patches: Any, height: int, width: int, patch_size: int) -> Any:
    """Lay patches side by side: the inverse of `patchify`.

    Args:
        patches: tensor (B, T, p p C).
        height, width: of the image in pixels.
        patch_size: side p of a patch in pixels.

    Returns:
        Tensor (B, H, W, C).

    Example:

    >>> unpatchify(np.zeros((1, 16, 12), "float32"), 8, 8, 2).shape
    (1, 8, 8, 3)
    """
    rows, columns = height // patch_size, width // patch_size
    channels = patches.shape[-1] // patch_size**2
    x = ops.reshape(patches, (-1, rows, columns, patch_size, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H/p, p, W/p, p, C)
    return ops.reshape(x, (-1, height, width, channels))


def check_image_shape(shape: tuple, patch_size: int) -> None:
    """Raise ValueError unless shape is (H, W, C) with H and W multiples of patch_size."""
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            "input_shape must be (height, width, channels), channels last, all at least 1. "
            f"Received: input_shape={shape}"
        )
    if patch_size < 1 or shape[0] % patch_size or shape[1] % patch_size:
        raise ValueError(
            "height and width must be multiples of patch_size. "
            f"Received: patch_size={patch_size}, input_shape={shape}"
        )


@register
class PatchEmbedding(keras.layers.Layer):
    """Images -> one embedded token for each patch.

    The linear map of a patch is what a convolution with kernel and stride p computes.

    Args:
        patch_size: side p of a patch in pixels; the image's sides have to be multiples of it.
        hidden_size: width D of a token.

    Call:
        images (B, H, W, C) -> tokens (B, (H/p) (W/p), D), row by row.

    Raises:
        ValueError: if the patch does not divide the image.

    Example:

    >>> PatchEmbedding(patch_size=2, hidden_size=8)(np.ones((1, 4, 6, 3))).shape
    (1, 6, 8)
    """

    def __init__(self, patch_size: int, hidden_size: int, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.projection = TokenDense(hidden_size, dtype=self.dtype_policy, name="projection")

    def build(self, input_shape: tuple) -> None:
        check_image_shape(tuple(input_shape[1:]), self.patch_size)
        self.projection.build((None, None, self.patch_size**2 * input_shape[-1]))

    def call(self, images: Any) -> Any:
        patches = patchify(images, self.patch_size)  # (B, T, p p C)
        return self.projection(patches)  # (B, T, D)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        rows, columns = input_shape[1] // self.patch_size, input_shape[2] // self.patch_size
        return (input_shape[0], rows * columns, self.hidden_size)

    def get_config(self) -> dict:
        own = {"patch_size": self.patch_size, "hidden_size": self.hidden_size}
        return {**super().get_config(), **own}


@register
class BottleneckPatchEmbedding(keras.layers.Layer):
    """Images -> one embedded token for each patch, by way of fewer numbers than a large patch has.

    Two linear maps with nothing between them: p p C numbers -> `bottleneck`, without a bias, ->
    D. Images lie near a surface of few dimensions, so that large patches lose nothing.

    Args:
        bottleneck: how many numbers are left of a patch in between.
        patch_size, hidden_size: as for `PatchEmbedding`; None: those of the network that it is
            passed to.

    Call:
        images (B, H, W, C) -> tokens (B, (H/p) (W/p), D), row by row.

    Raises:
        ValueError: if the patch does not divide the image, or for a bottleneck below 1.

    Example:

    >>> layer = BottleneckPatchEmbedding(3, patch_size=2, hidden_size=8)
    >>> layer(np.ones((1, 4, 6, 3))).shape
    (1, 6, 8)

    Reference:
        Li, He: Back to Basics: Let Denoising Generative Models Denoise (2025), section 4.4.
    """

    def __init__(
        self,
        bottleneck: int,
        patch_size: int | None = None,
        hidden_size: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(bottleneck, int) or bottleneck < 1:
            raise ValueError(
                f"bottleneck must be an integer of 1 or more. Received: bottleneck={bottleneck!r}"
            )
        self.bottleneck = bottleneck
        self.patch_size: Any = patch_size
        self.hidden_size: Any = hidden_size

    def build(self, input_shape: tuple) -> None:
        check_image_shape(tuple(input_shape[1:]), self.patch_size)
        dtype = self.dtype_policy
        self.inner = TokenDense(self.bottleneck, use_bias=False, dtype=dtype, name="inner")
        self.projection = TokenDense(self.hidden_size, dtype=dtype, name="projection")
        self.inner.build((None, None, self.patch_size**2 * input_shape[-1]))
        self.projection.build((None, None, self.bottleneck))

    def call(self, images: Any) -> Any:
        patches = patchify(images, self.patch_size)  # (B, T, p p C)
        return self.projection(self.inner(patches))  # (B, T, D)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        rows, columns = input_shape[1] // self.patch_size, input_shape[2] // self.patch_size
        return (input_shape[0], rows * columns, self.hidden_size)

    def get_config(self) -> dict:
        names = ("bottleneck", "patch_size", "hidden_size")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
