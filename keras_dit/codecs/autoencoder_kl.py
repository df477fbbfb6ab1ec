"""The autoencoder of Stable Diffusion: images <-> latents of a normal posterior.

    mean, log variance = split(quant(encoder(x)));   x ≈ decoder(post_quant(z)),  z ~ posterior

Reference:
    Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models (2022), section
    3.1 and appendix G; Kingma, Welling: Auto-Encoding Variational Bayes (2014).
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.codecs.network import AutoencoderNetwork, check_size
from keras_dit.layers import AttentionBlock, Convolution, GroupNorm, ResidualBlock
from keras_dit.serialization import register

LOG_VARIANCE = (-30.0, 20.0)  # between which that of the posterior is kept


@register
class AutoencoderKL(AutoencoderNetwork):
    """Images <-> latents at 1/2, 1/4, 1/8 … of their size, with a normal posterior.

    It is built at construction and takes images of any size that its `factor` divides.

    Args:
        in_channels: of the images.
        latent_channels: of the latents.
        channels: of the network at each resolution, from that of the images down; each is half of
            the one before.
        layers_per_block: residual blocks at each resolution; the decoder has one more.
        groups: of the group norms, which all channels are a multiple of.
        quant_conv: whether a linear map of the channels stands after the encoder, and one before
            the decoder.
        mid_attention: whether the lowest resolution has attention in its middle.
        attention_levels: places in `channels` whose residual blocks are each followed by attention.
        dtype: a Keras dtype policy. What comes out is float32 under any.

    Call:
        images (B, H, W, in_channels) in [−1, 1] -> images, by way of the posterior's mean.

    Raises:
        ValueError: where the numbers above do not fit each other.

    Example:

    >>> network = AutoencoderKL(channels=(8, 16), layers_per_block=1, groups=4)
    >>> mean, log_variance = network.encode(np.ones((1, 12, 8, 3)))
    >>> mean.shape, log_variance.shape, network.decode(mean).shape
    ((1, 6, 4, 4), (1, 6, 4, 4), (1, 12, 8, 3))
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        groups: int = 32,
        quant_conv: bool = True,
        mid_attention: bool = True,
        attention_levels: Sequence[int] = (),
        trainable: bool = True,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.in_channels = in_channels
        self.latent_channels = latent_channels
        self.config = {
            "in_channels": in_channels,
            "latent_channels": latent_channels,
            "channels": tuple(channels),
            "layers_per_block": layers_per_block,
            "groups": groups,
            "quant_conv": quant_conv,
            "mid_attention": mid_attention,
            "attention_levels": tuple(attention_levels),
        }
        _check(self.config)
        parts = {name: self.config[name] for name in _PARTS}
        dtype = {"dtype": self.dtype_policy}
        self.encoder = Encoder(2 * latent_channels, **parts, name="encoder", **dtype)
        self.decoder = Decoder(in_channels, **parts, name="decoder", **dtype)
        self.quant = self.post_quant = None
        if quant_conv:
            self.quant = Convolution(2 * latent_channels, 1, name="quant", **dtype)
            self.post_quant = Convolution(latent_channels, 1, name="post_quant", **dtype)
        self.build()
        self.trainable = trainable  # now that there are layers to tell

    def build(self, *_):
        self.encoder.build((None, None, None, self.in_channels))
        self.decoder.build((None, None, None, self.latent_channels))
        if self.quant is not None:
            self.quant.build((None, None, None, 2 * self.latent_channels))
            self.post_quant.build((None, None, None, self.latent_channels))

    @property
    def factor(self):
        """By how much latents are smaller than images, in each direction."""
        return 2 ** (len(self.config["channels"]) - 1)

    def encode(self, images: Any) -> tuple[Any, Any]:
        """The posterior of images.

        Args:
            images: (B, H, W, in_channels) in [−1, 1].

        Returns:
            mean and log variance, float32 (B, H / factor, W / factor, latent_channels). The latter
            is kept between −30 and 20.

        Raises:
            ValueError: for a size that `factor` does not divide.
        """
        check_size(images, self)
        x = self.encoder(ops.cast(images, self.compute_dtype))
        if self.quant is not None:
            x = self.quant(x)
        return ops.split(_clipped(x), 2, axis=-1)

    def decode(self, latents: Any) -> Any:
        """The images of latents: (B, h, w, latent_channels) -> float32 (B, h factor, …)."""
        x = ops.cast(latents, self.compute_dtype)
        if self.post_quant is not None:
            x = self.post_quant(x)
        return ops.cast(self.decoder(x), "float32")

    @property
    def encoding(self):
        return [*self.encoder.steps, *([] if self.quant is None else [self.quant]), _clipped]

    @property
    def decoding(self):
        return [*([] if self.post_quant is None else [self.post_quant]), *self.decoder.steps]


def _clipped(posterior):
    """Mean and log variance (…, 2 latent_channels), float32, the latter within its bounds."""
    mean, log_variance = ops.split(ops.cast(posterior, "float32"), 2, axis=-1)
    return ops.concatenate([mean, ops.clip(log_variance, *LOG_VARIANCE)], axis=-1)


_PARTS = ("channels", "layers_per_block", "groups", "mid_attention", "attention_levels")


def _check(config):
    for name in ("in_channels", "latent_channels", "layers_per_block", "groups"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise ValueError(f"{name} must be an integer of 1 or more. Received: {config[name]!r}")
    channels, groups = config["channels"], config["groups"]
    whole = all(isinstance(c, int) and c >= 1 and c % groups == 0 for c in channels)
    if not channels or not whole:
        raise ValueError(
            "channels must be integers, multiples of groups, one for each resolution. "
            f"Received: channels={channels}, groups={groups}"
        )
    levels = config["attention_levels"]
    if not all(isinstance(level, int) and 0 <= level < len(channels) for level in levels):
        raise ValueError(
            f"attention_levels must be places in channels, 0 … {len(channels) - 1}. "
            f"Received: attention_levels={levels}"
        )


class _Half(keras.layers.Layer):
    """What encoder and decoder share: a list of layers, run one after the other."""

    def __init__(
        self,
        out_channels,
        channels,
        layers_per_block=2,
        groups=32,
        mid_attention=True,
        attention_levels=(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = {
            "out_channels": out_channels,
            "channels": tuple(channels),
            "layers_per_block": layers_per_block,
            "groups": groups,
            "mid_attention": mid_attention,
            "attention_levels": tuple(attention_levels),
        }
        self.steps = self._steps()

    def _steps(self):
        raise NotImplementedError

    def _made(self, kind, *arguments, name, **settings):
        return kind(*arguments, name=name, dtype=self.dtype_policy, **settings)

    def _residual(self, width, name):
        return self._made(ResidualBlock, width, self.config["groups"], name=name)

    def _attention(self, name):
        return self._made(AttentionBlock, self.config["groups"], name=name)

    def _level(self, level, blocks):
        """The residual blocks of a resolution, with their attention."""
        for i in range(blocks):
            yield self._residual(self.config["channels"][level], f"level_{level}_block_{i}")
            if level in self.config["attention_levels"]:
                yield self._attention(f"level_{level}_attention_{i}")

    def _middle(self):
        width = self.config["channels"][-1]
        yield self._residual(width, "mid_block_0")
        if self.config["mid_attention"]:
            yield self._attention("mid_attention")
        yield self._residual(width, "mid_block_1")

    def _end(self):
        yield self._made(GroupNorm, self.config["groups"], name="norm_out")
        yield self._made(keras.layers.Activation, "silu", name="silu")
        yield self._made(Convolution, self.config["out_channels"], name="conv_out")

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)
            input_shape = step.compute_output_shape(input_shape)

    def call(self, x):
        for step in self.steps:
            x = backend.call_layer(step, x)
        return x

    def compute_output_shape(self, input_shape):
        for step in self.steps:
            input_shape = step.compute_output_shape(input_shape)
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self.config}


@register
class Encoder(_Half):
    """The first half of an `AutoencoderKL`, whose arguments it has."""

    def _steps(self):
        channels, blocks = self.config["channels"], self.config["layers_per_block"]
        steps = [self._made(Convolution, channels[0], name="conv_in")]
        for level, width in enumerate(channels):
            steps += self._level(level, blocks)
            if level < len(channels) - 1:
                steps.append(self._made(Convolution, width, 3, 2, name=f"level_{level}_down"))
        return [*steps, *self._middle(), *self._end()]


@register
class Decoder(_Half):
    """The second half of an `AutoencoderKL`, whose arguments it has."""

    def _steps(self):
        channels, blocks = self.config["channels"], self.config["layers_per_block"] + 1
        steps = [self._made(Convolution, channels[-1], name="conv_in"), *self._middle()]
        for level, width in reversed(list(enumerate(channels))):
            steps += self._level(level, blocks)
            if level:
                steps.append(self._made(Upsampling, width, name=f"level_{level}_up"))
        return [*steps, *self._end()]


@register
class Upsampling(keras.layers.Layer):
    """Images at twice the size, each pixel four times, and a convolution of them.

    Args:
        filters: channels of the output.
        use_bias: whether the convolution has a bias.

    Call:
        images (B, H, W, C) -> (B, 2 H, 2 W, filters).
    """

    def __init__(self, filters: int, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.use_bias = use_bias

    def build(self, input_shape):
        options = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
        self.conv = Convolution(self.filters, name="conv", **options)
        self.conv.build(input_shape)

    def call(self, x):
        return backend.call_layer(self.conv, backend.doubled(x))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        sides = [side and 2 * side for side in (height, width)]
        return (batch, *sides, self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "use_bias": self.use_bias}
