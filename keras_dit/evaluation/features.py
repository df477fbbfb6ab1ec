"""What images are compared by: images -> numbers, one room for every network.

A feature extractor is called with uint8 images (N, H, W, C) and gives numpy arrays by name:
"pool" (N, D), which distances are measured in; where it has them "spatial", for the sFID, and
"logits", for the Inception score. Its name and digest go into the report and into the key of
stored statistics. Only Inception's distances are called by the published names, such as FID.
"""

import abc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit import images as pixels
from keras_dit.evaluation.inception import Inception

__all__ = ["Features", "Network", "Pixels", "digest_of"]


def digest_of(layer: keras.layers.Layer) -> str:
    """SHA-256 of a layer's weights, in hexadecimal; the same on every backend.

    Example:

    >>> layer = keras.layers.Dense(2, kernel_initializer="ones")
    >>> layer.build((None, 3))
    >>> len(digest_of(layer))
    64
    """
    return digest_of_arrays(layer.weights)


def digest_of_arrays(arrays: Any) -> str:
    """SHA-256 of arrays or tensors in their order, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for value in arrays:
        array = np.ascontiguousarray(ops.convert_to_numpy(value))
        digest.update(json.dumps([str(array.dtype), array.shape]).encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


class Features(abc.ABC):
    """What images are compared by.

    Attributes:
        name: of what the features are, for reports.
        digest: tells two of one name apart, such as a hash of weights; None where nothing does,
            so that nothing that was computed with it is used again.
        published: whether distances of these features have the names of papers, such as FID.
    """

    name: str
    digest: str | None
    published = False

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of images, uint8 (N, H, W, C) -> arrays of N rows by name."""


@dataclass(frozen=True)
class Pixels(Features):
    """The pixels themselves, from −1 to 1: for images as simple as digits, and no network.

    Example:

    >>> Pixels()(np.zeros((2, 4, 4, 1), "uint8"))["pool"].shape
    (2, 16)
    """

    name = "pixels"
    digest = "pixels of -1 to 1"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"pool": pixels.from_uint8(images).reshape(len(images), -1)}


class Network(Features):
    """The features of a Keras model, or of any function of tensors.

    Args:
        network: (B, H, W, C) tensor -> a tensor (B, D), or a dict of them with "pool" and, where
            there are any, "spatial" and "logits". `Inception` gets uint8, anything else float32
            in [−1, 1], as a network trained on the data of this package expects.
        name: what the features are called; None: by the class of the network.
        digest: what tells two networks of that name apart; None: the SHA-256 of the weights of a
            Keras layer, and nothing of a function.
        batch_size: images at once; the features do not depend on it.

    Example:

    >>> pooled = Network(lambda images: ops.mean(images, axis=(1, 2)), name="colours")
    >>> pooled(np.full((3, 8, 8, 3), 255, "uint8"))["pool"].round(3).tolist()[0]
    [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        network: Callable,
        name: str | None = None,
        digest: str | None = None,
        batch_size: int = 32,
    ):
        self.published = isinstance(network, Inception)
        is_layer = isinstance(network, keras.layers.Layer)
        usual = "Inception" if self.published else getattr(network, "name", None)
        self.name = name or usual or type(network).__name__
        self.digest = digest_of(network) if digest is None and is_layer else digest
        self.network, self.batch_size, self._is_layer = network, batch_size, is_layer
        self._run = backend.compile_inference(self._features)

    def _features(self, values, images):
        if not self.published:
            images = ops.cast(images, "float32") / 127.5 - 1.0
        if not self._is_layer:
            found = self.network(images)
        else:
            with backend.holding(self.network, values):
                found = self.network(images, training=False)
        return found if isinstance(found, dict) else {"pool": found}

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values: list[Any] = []
        parts = []
        if isinstance(self.network, keras.layers.Layer):
            values = backend.compute_values(self.network, self.network.weights)
        for i in range(0, len(images), self.batch_size):
            batch = images[i : i + self.batch_size]
            missing = self.batch_size - len(batch)  # all batches of one size: one program
            padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
            found = self._run(tuple(values), padded)
            parts.append({n: ops.convert_to_numpy(v)[: len(batch)] for n, v in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
