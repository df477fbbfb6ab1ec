"""Norms, and how shift and scale steer any of them.

    LayerNorm(x) = (x − mean x) / √(variance x + ε),   RMSNorm(x) = x / √(mean x² + ε)

over the last axis, in float32 under any dtype policy; modulated: norm(x) (1 + scale) + shift.
`GroupNorm` is for images: its mean is over all places and a group of neighbouring channels.
"""

from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.serialization import register


def modulate(norm: keras.layers.Layer, x: Any, shift: Any, scale: Any) -> Any:
    """norm(x) (1 + scale) + shift, in one pass over memory if the norm has one, `modulated`.

    Args:
        norm: any built layer (B, T, D) -> (B, T, D).
        x: (B, T, D).
        shift, scale: (B, 1, D).

    Returns:
        (B, T, D).
    """
    if hasattr(norm, "modulated"):
        return norm.modulated(x, shift, scale)
    return backend.multiply_add(backend.call_layer(norm, x), 1.0 + scale, shift)


class _Norm(keras.layers.Layer):
    """What LayerNorm and RMSNorm share."""

    def __init__(self, epsilon: float = 1e-6, affine: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.affine = affine
        self.gain = self.bias = None

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "affine": self.affine}


@register
class LayerNorm(_Norm):
    """Layer norm, as DiT has it without weights, or with a gain and a bias.

    Args:
        epsilon: added to the variance.
        affine: whether the result is multiplied by a learned gain and has a learned bias added.

    Call:
        (..., D) -> (..., D).

    Example:

    >>> x = np.array([[1.0, 3.0]], "float32")
    >>> [round(float(n), 3) for n in LayerNorm()(x)[0]]
    [-1.0, 1.0]

    Reference:
        Ba, Kiros, Hinton: Layer Normalization (2016).
    """

    def build(self, input_shape: tuple) -> None:
        if self.affine:
            width = input_shape[-1:]
            self.gain = self.add_weight(shape=width, initializer="ones", name="gain")
            self.bias = self.add_weight(shape=width, initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        return backend.layer_norm(x, self.gain, self.bias, self.epsilon)

    def modulated(self, x: Any, shift: Any, scale: Any) -> Any:
        """norm(x) (1 + scale) + shift."""
        if self.affine:
            return backend.multiply_add(self.call(x), 1.0 + scale, shift)
        return backend.modulated_layer_norm(x, shift, scale, self.epsilon)


@register
class RMSNorm(_Norm):
    """Root mean square norm: layer norm without the mean, cheaper and as good in practice.

    Args:
        epsilon: added to the mean square.
        affine: whether the result is multiplied by a learned gain.

    Call:
        (..., D) -> (..., D).

    Example:

    >>> x = np.array([[1.0, 7.0]], "float32")
    >>> [round(float(n), 3) for n in keras.ops.convert_to_numpy(RMSNorm()(x))[0]]
    [0.2, 1.4]

    Reference:
        Zhang, Sennrich: Root Mean Square Layer Normalization (2019).
    """

    def __init__(self, epsilon: float = 1e-6, affine: bool = True, **kwargs):
        super().__init__(epsilon, affine, **kwargs)

    def build(self, input_shape: tuple) -> None:
        if self.affine:
            self.gain = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gain")

    def call(self, x: Any) -> Any:
        return backend.rms_norm(x, self.gain, self.epsilon)


@register
class GroupNorm(keras.layers.Layer):
    """Group norm of images, with a gain and a bias for each channel.

    Args:
        groups: how many groups of neighbouring channels there are.
        epsilon: added to the variance.

    Call:
        images (B, H, W, C) -> (B, H, W, C).

    Raises:
        ValueError: if the channels are not a multiple of the groups.

    Example:

    >>> x = np.array([[[[1.0, 3.0, 2.0, 2.0]]]], "float32")
    >>> [round(float(n), 3) for n in keras.ops.convert_to_numpy(GroupNorm(2)(x)).ravel()]
    [-1.0, 1.0, 0.0, 0.0]

    Reference:
        Wu, He: Group Normalization (2018).
    """

    def __init__(self, groups: int = 32, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, input_shape: tuple) -> None:
        width = input_shape[-1]
        if self.groups < 1 or width % self.groups:
            raise ValueError(
                "the channels must be a multiple of the norm's groups. "
                f"Received: groups={self.groups}, channels={width}"
            )
        self.gain = self.add_weight(shape=(width,), initializer="ones", name="gain")
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        return backend.group_norm(x, self.gain, self.bias, self.groups, self.epsilon)

    def moments(self, x: Any, weight: Any) -> list:
        """Mean and variance of each group.

        Args:
            x: (1, H, W, C).
            weight: (H, W), how much each place counts.

        Returns:
            Two float32 tensors (groups,).
        """
        height, width, channels = x.shape[1:]
        shape = (height, width, self.groups, channels // self.groups)
        x, weight = ops.reshape(ops.cast(x, "float32"), shape), weight[:, :, None, None]
        total = ops.sum(weight) * (channels // self.groups)
        mean = _sum(weight * x) / total
        centred = weight * ops.square(x - mean[:, None])
        return [mean, _sum(centred) / total]

    def with_moments(self, x: Any, mean: Any, variance: Any) -> Any:
        """The norm of x by moments (groups,) that are given, such as those of a larger image."""
        size = self.gain.shape[0] // self.groups
        scale = ops.repeat(ops.rsqrt(variance + self.epsilon), size) * self.gain
        shift = self.bias - ops.repeat(mean, size) * scale
        return ops.cast(ops.cast(x, "float32") * scale + shift, x.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}


def _sum(x):
    """(H, W, groups, C) -> (groups,); row by row, which loses fewer digits."""
    return ops.sum(ops.sum(x, axis=1), axis=(0, 2))
