"""What a convolutional network of images is made of: convolutions, residual blocks, attention.

    residual block   x ← skip(x) + conv₂(SiLU(norm₂(conv₁(SiLU(norm₁(x))))))
    attention        x ← x + attention(norm(x)), over all places of the image

norm is `GroupNorm`; skip is a linear map of the channels where their number changes.

Reference:
    He et al.: Deep Residual Learning for Image Recognition (2016), in the form of Esser et al.:
    Taming Transformers (2021), appendix A.
"""

import keras
from keras import ops

from keras_dit import backend
from keras_dit.layers.attention import SelfAttention
from keras_dit.layers.norms import GroupNorm
from keras_dit.serialization import register


@register
class Convolution(keras.layers.Conv2D):
    """A Conv2D of channels-last images that keeps their size, or divides it by its strides.

    The arguments and numbers are those of `keras.layers.Conv2D`, with other defaults; it runs in
    the form that is fast on this backend.

    Example:

    >>> Convolution(8, strides=2)(np.ones((1, 6, 4, 3))).shape
    (1, 3, 2, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size=3,
        strides=1,
        padding="same",
        data_format="channels_last",
        **kwargs,
    ):
        super().__init__(filters, kernel_size, strides, padding, data_format, **kwargs)

    def call(self, inputs):
        if self._is_other():
            return super().call(inputs)
        outputs = backend.convolution(inputs, self.kernel, self.bias, self.strides[0])
        return outputs if self.activation is None else self.activation(outputs)

    def _is_other(self):
        plain = {"padding": "same", "data_format": "channels_last", "groups": 1}
        if any(getattr(self, name) != value for name, value in plain.items()):
            return True
        return max(self.dilation_rate) > 1 or len(set(self.strides)) > 1


@register
class ResidualBlock(keras.layers.Layer):
    """Two convolutions, each after a norm and SiLU, added to what came in.

    Args:
        filters: channels of the output.
        groups: of the norms.

    Call:
        images (B, H, W, C) -> (B, H, W, filters).

    Raises:
        ValueError: if the channels are not a multiple of the groups.

    Example:

    >>> block = ResidualBlock(16, groups=4)
    >>> block(np.ones((1, 6, 4, 8))).shape
    (1, 6, 4, 16)
    """

    def __init__(self, filters: int, groups: int = 32, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.groups = groups

    def build(self, input_shape):
        dtype, inner = {"dtype": self.dtype_policy}, (*input_shape[:-1], self.filters)
        self.norm_1 = GroupNorm(self.groups, name="norm_1", **dtype)
        self.conv_1 = Convolution(self.filters, name="conv_1", **dtype)
        self.norm_2 = GroupNorm(self.groups, name="norm_2", **dtype)
        self.conv_2 = Convolution(self.filters, name="conv_2", **dtype)
        self.skip = None
        if input_shape[-1] != self.filters:
            self.skip = Convolution(self.filters, 1, name="skip", **dtype)
            self.skip.build(input_shape)
        for layer, shape in (
            (self.norm_1, input_shape),
            (self.conv_1, input_shape),
            (self.norm_2, inner),
            (self.conv_2, inner),
        ):
            layer.build(shape)

    def call(self, x):
        run = backend.call_layer
        h = run(self.conv_1, ops.silu(run(self.norm_1, x)))
        h = run(self.conv_2, ops.silu(run(self.norm_2, h)))
        return h + (x if self.skip is None else run(self.skip, x))  # (B, H, W, filters)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


@register
class AttentionBlock(keras.layers.Layer):
    """Attention of all places of an image to one another, added to what came in.

    Args:
        groups: of the norm before it.
        num_heads: of the attention.

    Call:
        images (B, H, W, C) -> (B, H, W, C).

    Example:

    >>> AttentionBlock(groups=4)(np.ones((1, 6, 4, 8))).shape
    (1, 6, 4, 8)
    """

    def __init__(self, groups: int = 32, num_heads: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.num_heads = num_heads

    def build(self, input_shape):
        self.norm = GroupNorm(self.groups, name="norm", dtype=self.dtype_policy)
        self.attention = SelfAttention(self.num_heads, name="attention", dtype=self.dtype_policy)
        self.norm.build(input_shape)
        self.attention.build((input_shape[0], None, input_shape[-1]))

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        normal = backend.call_layer(self.norm, x)
        tokens = ops.reshape(normal, (-1, height * width, x.shape[-1]))  # (B, H W, C)
        mixed = backend.call_layer(self.attention, tokens)
        return x + ops.reshape(mixed, (-1, height, width, x.shape[-1]))

    def among(self, tokens, every, mean, variance):
        """What comes out at some places of an image only, in less memory.

        Args:
            tokens: (B, T, C), those places.
            every: (B, H W, C), all of the image.
            mean, variance: (groups,), its moments.

        Returns:
            (B, T, C).
        """
        some, others = (self.norm.with_moments(x, mean, variance) for x in (tokens, every))
        return tokens + self.attention.among(some, others)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"groups": self.groups, "num_heads": self.num_heads}
        return {**super().get_config(), **own}
