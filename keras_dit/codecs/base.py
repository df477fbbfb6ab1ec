"""Images <-> what the network sees.

A codec's `encode` runs inside the training step, on tensors; its `decode` on the host, batch by
batch.
"""

import math
from typing import Any

import numpy as np

from keras_dit.serialization import Configurable


class Codec(Configurable):
    """Images <-> samples of about unit size. Subclasses are frozen dataclasses.

    A field may hold a Keras model, such as an autoencoder: `Diffusion` then keeps it, without
    training it, and saves it with the rest.

    Attributes:
        low, high: the range in which images are expected, and to which decoded ones are clipped.

    Example:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Rooted(Codec):  # of images in [0, 1] the network sees the roots
    ...     low, high = 0.0, 1.0
    ...
    ...     def encode(self, images, seed=None):
    ...         return 2.0 * keras.ops.sqrt(images) - 1.0
    ...
    ...     def decode(self, samples):
    ...         return ((np.clip(samples, -1, 1) + 1) / 2) ** 2
    >>> encoded = ops.convert_to_numpy(Rooted().encode(np.array([0.25], "float32")))
    >>> float(Rooted().decode(encoded)[0])
    0.25
    """

    example = "codecs.Pixels()"
    low, high = -math.inf, math.inf

    def encode(self, images: Any, seed: Any = None) -> Any:
        """Images of a batch as samples; within the training step.

        Args:
            images: tensor (B, ...) of what `fit` is given, any number type.
            seed: a `keras.random.SeedGenerator` for a codec that draws at random; None: none is
                drawn, the most likely samples.

        Returns:
            x0, float32 tensor (B, ...).
        """
        raise NotImplementedError

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """Samples x0 of a batch, numpy (B, ...) -> numpy float32 images."""
        raise NotImplementedError

    def data_shape(self, sample_shape: tuple) -> tuple:
        """The shape of what `fit` is given, one image, where the network sees that shape."""
        return sample_shape

    def data_shapes(self, sample_shape: tuple) -> tuple[tuple, ...]:
        """All shapes that `encode` takes of one image: `data_shape`, and others, such as a cache's.

        Only what has the first one is expected between `low` and `high`.
        """
        return (self.data_shape(sample_shape),)

    def sample_shape(self, data_shape: tuple) -> tuple:
        """The shape that the network sees of images of that shape; inverse of `data_shape`."""
        return data_shape
