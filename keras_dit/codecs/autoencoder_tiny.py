"""The tiny autoencoder (TAESD): latents of a large one, decoded in a hundredth of the time.

    block   x ← ReLU(x + conv(ReLU(conv(ReLU(conv(x))))))

It was made to stand for the autoencoder of Stable Diffusion at the scale at which the network sees
latents: its own scale is 1. There is no posterior, an image has one latent.

Reference:
    Bohan: Tiny AutoEncoder for Stable Diffusion (2023), github.com/madebyollin/taesd.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dit import backend
from keras_dit.codecs.autoencoder_kl import LOG_VARIANCE, Upsampling
from keras_dit.codecs.network import AutoencoderNetwork, check_size
from keras_dit.layers import Convolution
from keras_dit.serialization import register

MAGNITUDE = 3.0  # of latents, to which tanh brings what is far out


@register
class AutoencoderTiny(AutoencoderNetwork):
    """Images <-> latents by small networks of one width, without a posterior.

    It is built at construction and takes images of any size that its `factor` divides.

    Args:
        in_channels: of the images.
        latent_channels: of the latents.
        width: channels within the network.
        encoder_blocks: residual blocks at each resolution, from that of the images down.
        decoder_blocks: residual blocks at each resolution, from that of the latents up.
        dtype: a Keras dtype policy. What comes out is float32 under any.

    Call:
        images (B, H, W, in_channels) in [−1, 1] -> images.

    Raises:
        ValueError: where the numbers above do not fit each other.

    Example:

    >>> network = AutoencoderTiny(width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    >>> latents, _ = network.encode(np.ones((1, 12, 8, 3)))
    >>> latents.shape, network.decode(latents).shape
    ((1, 6, 4, 4), (1, 12, 8, 3))
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        width: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        trainable: bool = True,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.in_channels = in_channels
        self.latent_channels = latent_channels
        self.config = {
            "in_channels": in_channels,
            "latent_channels": latent_channels,
            "width": width,
            "encoder_blocks": tuple(encoder_blocks),
            "decoder_blocks": tuple(decoder_blocks),
        }
        _check(self.config)
        self.encoder = self._encoder()
        self.decoder = self._decoder()
        self.build()
        self.trainable = trainable

    def _encoder(self):
        """The layers by name, in their order."""
        width = self.config["width"]
        steps = []
        for level, blocks in enumerate(self.config["encoder_blocks"]):
            if level == 0:
                steps.append(self._made(Convolution, width, name="encoder_conv_in"))
            else:
                name = f"encoder_level_{level}_down"
                steps.append(self._made(Halving, width, name=name))
            steps += self._blocks(f"encoder_level_{level}", blocks)
        return [*steps, self._made(Convolution, self.latent_channels, name="encoder_conv_out")]

    def _decoder(self):
        width, levels = self.config["width"], len(self.config["decoder_blocks"])
        steps = [self._made(Convolution, width, name="decoder_conv_in", activation="relu")]
        for level, blocks in zip(reversed(range(levels)), self.config["decoder_blocks"]):
            steps += self._blocks(f"decoder_level_{level}", blocks)
            if level:
                name = f"decoder_level_{level}_up"
                steps.append(self._made(Upsampling, width, use_bias=False, name=name))
        return [*steps, self._made(Convolution, self.in_channels, name="decoder_conv_out")]

    def _blocks(self, name, count):
        width = self.config["width"]
        return [self._made(TinyBlock, width, name=f"{name}_block_{i}") for i in range(count)]

    def _made(self, kind, *arguments, name, **settings):
        return kind(*arguments, name=name, dtype=self.dtype_policy, **settings)

    def build(self, *_):
        for steps, channels in (
            (self.encoder, self.in_channels),
            (self.decoder, self.latent_channels),
        ):
            for step in steps:
                step.build((None, None, None, channels))
                channels = self.config["width"]

    @property
    def factor(self):
        """By how much latents are smaller than images, in each direction."""
        return 2 ** (len(self.config["encoder_blocks"]) - 1)

    def encode(self, images: Any) -> tuple[Any, Any]:
        """The latents of images, as a posterior that is as narrow as can be.

        Args:
            images: (B, H, W, in_channels) in [−1, 1].

        Returns:
            mean and log variance, float32 (B, H / factor, W / factor, latent_channels). The latter
            is −30 everywhere.

        Raises:
            ValueError: for a size that `factor` does not divide.
        """
        check_size(images, self)
        x = _run(self.encoding, ops.cast(images, self.compute_dtype))
        return ops.split(x, 2, axis=-1)

    def decode(self, latents: Any) -> Any:
        """The images of latents: (B, h, w, latent_channels) -> float32 (B, h factor, …)."""
        return _run(self.decoding, ops.cast(latents, self.compute_dtype))

    @property
    def encoding(self):
        return [lambda x: (x + 1) / 2, *self.encoder, _posterior]

    @property
    def decoding(self):
        return [_bounded, *self.decoder, lambda x: 2 * ops.cast(x, "float32") - 1]


def _run(steps, x):
    for step in steps:
        x = backend.call_layer(step, x) if isinstance(step, keras.Layer) else step(x)
    return x


def _bounded(latents):
    return ops.tanh(latents / MAGNITUDE) * MAGNITUDE


def _posterior(latents):
    """Mean and log variance, side by side."""
    mean = ops.cast(latents, "float32")
    return ops.concatenate([mean, ops.full_like(mean, LOG_VARIANCE[0])], axis=-1)


def _check(config):
    for name in ("in_channels", "latent_channels", "width"):
        if not isinstance(config[name], int) or config[name] < 1:
            raise ValueError(f"{name} must be an integer of 1 or more. Received: {config[name]!r}")
    encoder, decoder = config["encoder_blocks"], config["decoder_blocks"]
    numbers = all(isinstance(n, int) and n >= 0 for n in (*encoder, *decoder))
    if not numbers or not encoder or len(encoder) != len(decoder):
        raise ValueError(
            "encoder_blocks and decoder_blocks must be numbers of blocks, one for each resolution. "
            f"Received: encoder_blocks={encoder}, decoder_blocks={decoder}"
        )


@register
class TinyBlock(keras.layers.Layer):
    """Three convolutions with ReLU between them and after the sum with what came in.

    Args:
        filters: channels, of the input too.

    Call:
        images (B, H, W, filters) -> (B, H, W, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        dtype = {"dtype": self.dtype_policy}
        self.conv_1 = Convolution(self.filters, activation="relu", name="conv_1", **dtype)
        self.conv_2 = Convolution(self.filters, activation="relu", name="conv_2", **dtype)
        self.conv_3 = Convolution(self.filters, name="conv_3", **dtype)
        for conv in (self.conv_1, self.conv_2, self.conv_3):
            conv.build((*input_shape[:-1], self.filters))

    def call(self, x):
        h = x
        for conv in (self.conv_1, self.conv_2, self.conv_3):
            h = backend.call_layer(conv, h)
        return ops.relu(x + h)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@register
class Halving(keras.layers.Layer):
    """A convolution without a bias to half the size, with a row of zeros on each side.

    That is the way of PyTorch's padding; `Convolution` would have zeros below and at the right.

    Args:
        filters: channels of the output.

    Call:
        images (B, 2 H, 2 W, C) -> (B, H, W, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        options = {"padding": "valid", "use_bias": False, "dtype": self.dtype_policy}
        self.conv = Convolution(self.filters, 3, 2, name="conv", **options)
        self.conv.build(input_shape)

    def call(self, x):
        return backend.call_layer(self.conv, ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        sides = [side and side // 2 for side in (height, width)]
        return (batch, *sides, self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}
