"""Batches of several sizes in one training.

JAX makes a program for each shape that it meets, and torch runs what it is given. On TensorFlow
Keras takes one shape for all batches from the first two, and leaves open what differs in them. A
network has to know the sides of its images, so there too each size has a program of its own.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit.backend.selection import BACKEND

__all__ = ["of_each_shape", "with_open_sides"]


def of_each_shape(function: Callable, another: Callable[[], Callable]) -> Callable:
    """A function of Keras's trainer for batches of several shapes.

    Args:
        function: that Keras has made.
        another: () -> another one, which has seen no batch yet.
    """
    if BACKEND != "tensorflow":
        return function
    functions: dict[tuple, Callable] = {}

    def step(iterator):
        batch = next(iterator)
        shapes = tuple(str(getattr(part, "shape", None)) for part in tree.flatten(batch))
        if shapes not in functions:
            functions[shapes] = another() if functions else function
        return functions[shapes](iter([batch]))

    return step


def with_open_sides(data: Any) -> Any:
    """Data for Keras's trainer, of which the batches may differ in the sides of their images.

    Args:
        data: a `PyDataset` of batches whose first part is images (B, H, W, C); other data is given
            back as it is.
    """
    if BACKEND != "tensorflow" or not isinstance(data, keras.utils.PyDataset):
        return data
    return _OpenSides(data)


class _OpenSides(keras.utils.PyDataset):
    """Of the two batches that Keras looks at before it trains the second has larger images."""

    def __init__(self, data):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.looks = data, 0

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        batch, self.looks = self.data[index], self.looks + 1
        if self.looks != 2 or self.num_batches == 1:
            return batch
        images, *others = batch
        larger = np.pad(ops.convert_to_numpy(images), [(0, 0), (0, 1), (0, 1), (0, 0)])
        return larger, *others

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()
