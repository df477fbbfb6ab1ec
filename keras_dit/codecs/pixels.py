"""Codecs without weights."""

import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_dit.codecs.base import Codec
from keras_dit.serialization import register


@register
@dataclass(frozen=True)
class Pixels(Codec):
    """Pixels between two values, which the network sees in [−1, 1].

    `Pixels()` is for images in [−1, 1], `Pixels(0, 255)` for 8-bit ones, which then are
    scaled in the training step and stay small until there.

    Args:
        low, high: the values of black and white. Decoded images are clipped to them.

    Example:

    >>> codec = Pixels(0, 255)
    >>> black_and_white = codec.encode(np.array([0, 255], "uint8"))
    >>> [float(value) for value in black_and_white]
    [-1.0, 1.0]
    >>> codec.decode(np.array([-1.0, 1.0])).tolist()
    [0.0, 255.0]
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, both finite. Received: {self}")

    def encode(self, images, seed=None):
        images = ops.cast(images, "float32")
        if (self.low, self.high) == (-1.0, 1.0):
            return images
        return (images - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def decode(self, samples):
        unit = (np.clip(samples, -1.0, 1.0) + 1.0) / 2.0
        return (self.low + unit * (self.high - self.low)).astype("float32")


@register
@dataclass(frozen=True)
class Latents(Codec):
    """Latents of an autoencoder, scaled to about unit size and never clipped.

    Args:
        scale: x0 = scale · latent; 0.18215 for the autoencoder of Stable Diffusion 1 and DiT.

    Example:

    >>> codec = Latents(scale=0.5)
    >>> [float(value) for value in codec.encode(np.array([4.0, -2.0]))]
    [2.0, -1.0]
    """

    scale: float = 0.18215

    def __post_init__(self):
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite. Received: scale={self.scale}")

    def encode(self, images, seed=None):
        return ops.cast(images, "float32") * self.scale

    def decode(self, samples):
        return (samples / self.scale).astype("float32")
