"""A codec that holds an autoencoder.

    encode   x0 = (z − shift) · scale,  z ~ N(mean, exp(log variance)) of the image
    decode   image = decoder(x0 / scale + shift)

Reference:
    Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models (2022), section
    4.3.2 and appendix D.1: why latents are scaled to unit variance.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.codecs.base import Codec
from keras_dit.codecs.network import check_size
from keras_dit.codecs.tiles import Tiled
from keras_dit.files import beside
from keras_dit.registry import Openers
from keras_dit.serialization import register

# A room above that can open something registers it here; `Autoencoder.from_preset` asks each.
OPENERS = Openers("opener")

PIXELS = 4 * 256 * 256  # of all images that are decoded at once, at most, or one image


@register
@dataclass(frozen=True)
class Autoencoder(Codec):
    """Latents of an autoencoder, (z − shift) · scale, and images in [−1, 1].

    `encode` takes images, or the posterior that `posterior` gave of them: mean and log variance on
    the axis of channels, as a data set of cached latents holds it.

    Args:
        network: an `AutoencoderKL`, an `AutoencoderTiny`, or a Keras layer with their methods
            `encode` and `decode` and their attributes in_channels, latent_channels and factor.
            It is not trained by what it is a codec of.
        scale, shift: numbers, or one for each channel of the latents: 1/std and mean.
        tile_size: side in pixels; larger images are encoded (by `posteriors`) and decoded in tiles
            of that size, to rounding as the whole is, in several times less memory and several
            times more time. None: none are, nor those of a network of your own that does not say
            its steps, as `encoding` and `decoding`.

    Raises:
        ValueError: for a scale or shift that makes no sense, or a network whose images and
            posteriors cannot be told apart by their channels.

    Example:

    >>> network = AutoencoderKL(channels=(8, 16), layers_per_block=1, groups=4)
    >>> codec = Autoencoder(network, scale=0.18215)
    >>> x0 = codec.encode(np.zeros((2, 8, 8, 3), "float32"))
    >>> x0.shape, codec.decode(keras.ops.convert_to_numpy(x0)).shape
    ((2, 4, 4, 4), (2, 8, 8, 3))
    """

    network: keras.Layer
    scale: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0
    tile_size: int | None = 1024
    low, high = -1.0, 1.0
    example = "codecs.Autoencoder(network)"

    def __post_init__(self):
        names = ("encode", "decode", "in_channels", "latent_channels", "factor")
        lacking = [name for name in names if not hasattr(self.network, name)]
        if lacking or not isinstance(self.network, keras.Layer):
            raise ValueError(
                "network must be an autoencoder, such as codecs.AutoencoderKL(). "
                f"Received: network={self.network!r}, without {', '.join(lacking)}"
            )
        channels = self.network.latent_channels
        for name in ("scale", "shift"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), channels))
        if 0.0 in np.atleast_1d(self.scale):
            raise ValueError(f"scale must not be 0. Received: scale={self.scale}")
        factor = self.network.factor
        if self.tile_size is not None and self.tile_size < factor:
            raise ValueError(
                f"tile_size must be None or at least {factor}. Received: tile_size={self.tile_size}"
            )
        if self.network.in_channels == 2 * channels:
            raise ValueError(
                "images must not have as many channels as a posterior, two for each of the "
                f"latents': none could tell them apart. Received: in_channels={2 * channels}, "
                f"latent_channels={channels}"
            )

    @classmethod
    def from_preset(cls, preset, scale=None, shift=None, **overrides):
        """The codec of a published autoencoder, or of one of your own.

        Of which it is follows from its content: a folder or file of diffusers (AutoencoderKL of
        Stable Diffusion 1, 2, XL and 3, of Flux; AutoencoderTiny), a file of CompVis's layout,
        also within a whole Stable Diffusion, or a `.keras` file of a codec or its network. No code
        in a file is run.

        Args:
            preset: a file, a folder or `hf://owner/name`.
            scale, shift: of the latents; None: what the file says. Of one that does not say it,
                four channels are taken for Stable Diffusion 1's and 2's, others for unscaled, with
                a warning.
            **overrides: dtype, a Keras dtype policy; None: float32 where the file asks for it
                (`force_upcast`), else Keras's. groups of the norms, where the file does not say it
                and they are not 32.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that is broken, holds something else, or contradicts an argument.

        Example:

        ```python
        codec = keras_dit.codecs.Autoencoder.from_preset("hf://stabilityai/sd-vae-ft-ema")
        ```
        """
        return OPENERS.of(preset)(preset, scale=scale, shift=shift, **overrides)

    def save(self, path: str | os.PathLike) -> None:
        """Write a `.keras` file, which `from_preset` reads.

        Raises:
            OSError: if it cannot be written; one that is there then stays.
        """
        with beside(path) as new:
            CodecFile(self).save(new)

    def posterior(self, images: Any) -> tuple[Any, Any]:
        """Mean and log variance of images, raw: neither shifted nor scaled.

        Args:
            images: tensor (B, H, W, C) in [−1, 1].

        Returns:
            Two float32 tensors (B, H / factor, W / factor, latent_channels).
        """
        mean, log_variance = self.network.encode(images)
        return ops.stop_gradient(mean), ops.stop_gradient(log_variance)

    def encode(self, images, seed=None):
        """Samples x0 of images, or of their posteriors.

        Args:
            images: tensor (B, H, W, C) in [−1, 1], or (B, h, w, 2 latent_channels), mean and
                log variance.
            seed: a `keras.random.SeedGenerator`: latents are drawn; None: the posterior's mean.

        Returns:
            (z − shift) · scale, float32 (B, h, w, latent_channels).
        """
        if images.shape[-1] is None:  # TensorFlow has made one program of two shapes
            raise ValueError(
                "images and posteriors are told apart by their channels, which are not known here: "
                "compile() the model again before it is given the others"
            )
        if images.shape[-1] == 2 * self.network.latent_channels:
            mean, log_variance = ops.split(ops.cast(images, "float32"), 2, axis=-1)
        else:
            mean, log_variance = self.posterior(images)
        if seed is not None:
            count, *rest = ops.shape(mean)

            def draw(n):
                return keras.random.normal((n, *rest), seed=seed, dtype="float32")

            noise = backend.drawn(draw, count)
            mean = mean + ops.exp(0.5 * log_variance) * noise
        return ops.multiply(ops.subtract(mean, _row(self.shift)), _row(self.scale))

    def posteriors(self, images: np.ndarray) -> np.ndarray:
        """The posteriors of images on the host, in batches of bounded memory.

        Args:
            images: numpy (N, H, W, C) in [−1, 1].

        Returns:
            numpy float32 (N, h, w, 2 latent_channels), mean and log variance, as `encode` takes
            them.
        """
        images = np.asarray(images, "float32")
        check_size(images, self.network)
        shape = self.sample_shape(images.shape[1:])
        made = np.empty((len(images), *shape[:2], 2 * shape[2]), "float32")
        if self._is_cut(images):
            for i, image in enumerate(images):
                made[i] = self._tiled_encoder(image)
        else:
            self._fill(made, self._encoder, images, math.prod(images.shape[1:3]))
        return made

    def decode(self, samples):
        shape = samples.shape[1:]
        images = np.empty((len(samples), *self.data_shape(shape)), "float32")
        latents = np.asarray(samples, "float32") / _row(self.scale) + _row(self.shift)
        if self._is_cut(images):
            for i, latent in enumerate(latents):
                images[i] = self._tiled_decoder(latent)
        else:
            self._fill(images, self._decoder, latents, math.prod(images.shape[1:3]))
        return np.clip(images, self.low, self.high, out=images)

    def data_shape(self, sample_shape):
        height, width, channels = sample_shape
        if channels != self.network.latent_channels:
            raise ValueError(
                f"the autoencoder's latents have {self.network.latent_channels} channels, and the "
                f"network is for {channels}. Received: sample_shape={sample_shape}"
            )
        factor = self.network.factor
        return height * factor, width * factor, self.network.in_channels

    def data_shapes(self, sample_shape):
        posterior = (*sample_shape[:2], 2 * self.network.latent_channels)
        return self.data_shape(sample_shape), posterior

    def sample_shape(self, data_shape):
        height, width, channels = data_shape
        if channels == 2 * self.network.latent_channels:
            return height, width, self.network.latent_channels
        factor = self.network.factor
        return height // factor, width // factor, self.network.latent_channels

    @property
    def identity(self) -> str:
        """A short hash of the network's weights and configuration, the same on every backend."""
        config = self.network.get_config()
        plain = {k: v for k, v in config.items() if k not in ("name", "dtype", "trainable")}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        for weight in self.network.weights:
            array = ops.convert_to_numpy(ops.cast(weight, "float32"))
            digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _encoder(self):
        """The compiled encoder: (values of the weights, images) -> mean and log variance."""
        return self._compiled(lambda images: ops.concatenate(self.network.encode(images), axis=-1))

    @functools.cached_property
    def _decoder(self):
        """The compiled decoder: (values of the weights, latents) -> images."""
        return self._compiled(lambda latents: self.network.decode(latents))

    def _compiled(self, function):
        def with_values(values, x):
            with backend.holding(self.network, values):
                return function(x)

        return backend.compile_inference(with_values, backend.jit_compile_convolutions())

    @functools.cached_property
    def _tiled_encoder(self):
        return Tiled(self.network, self.network.encoding, Fraction(1), self.tile_size)

    @functools.cached_property
    def _tiled_decoder(self):
        size = Fraction(1, self.network.factor)
        return Tiled(self.network, self.network.decoding, size, self.tile_size)

    def _is_cut(self, images):
        """Whether images are too large to be looked at whole."""
        known = hasattr(self.network, "encoding")  # how it goes, step by step
        return known and self.tile_size is not None and max(images.shape[1:3]) > self.tile_size

    def _fill(self, results, function, given, pixels):
        """results[i] = function(given[i]), of images of so many pixels."""
        values = backend.laid_out(backend.compute_values(self.network, self.network.weights))
        count, most = len(given), max(1, PIXELS // pixels)
        # Batches of one size, the last filled up: one program.
        size = math.ceil(count / math.ceil(count / most)) if count else 1
        for start in range(0, count, size):
            part = given[start : start + size].astype("float32")
            filled = np.concatenate(
                [part, np.zeros((size - len(part), *part.shape[1:]), "float32")]
            )
            made = ops.convert_to_numpy(function(values, ops.convert_to_tensor(filled)))
            results[start : start + size] = made[: len(part)]


@register
class CodecFile(keras.Model):
    """What a `.keras` file of a codec holds: Keras saves models only.

    Args:
        codec: an `Autoencoder`.
    """

    def __init__(self, codec: Autoencoder, **kwargs):
        super().__init__(**kwargs)
        self.codec = codec
        self.network = codec.network
        self.built = True

    def get_config(self):
        codec = keras.saving.serialize_keras_object(self.codec)
        return {"name": self.name, "codec": codec}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(keras.saving.deserialize_keras_object(config["codec"]))


def _numbers(name, value, channels):
    """A finite number, or a tuple of one for each channel; ValueError for anything else."""
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError):
        array = np.full((), math.nan)
    if array.shape not in ((), (channels,)) or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be a finite number, or {channels} of them, one for each channel of the "
            f"latents. Received: {name}={value!r}"
        )
    return tuple(array.tolist()) if array.ndim else float(array)


def _row(value):
    return np.asarray(value, "float32")
