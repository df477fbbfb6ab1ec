"""Batches of images for `fit`, streamed from an array or from files.

Batch i of epoch e holds the samples order_e[i·B … (i + 1)·B − 1], where order_e is drawn from
(seed, e) alone: a pure function of (seed, e, i), so a run can be resumed at any batch.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_dit import draws
from keras_dit import images as pictures
from keras_dit.datasets.arrays import checked_labels


def _image_shape(images):
    shape = getattr(images, "shape", None) or (len(images), *np.shape(images[0]))
    if len(shape) != 4:
        raise ValueError(
            "images must be of shape (N, H, W, C); images[..., None] adds a channel. "
            f"Received: shape={tuple(shape)}"
        )
    return tuple(int(size) for size in shape[1:])


def _as_float(batch):
    if batch.dtype == np.uint8:
        return pictures.from_uint8(batch)
    if batch.dtype.kind != "f":
        raise ValueError(
            f"images must be uint8, or floats in [-1, 1]. Received: dtype={batch.dtype}"
        )
    return batch.astype("float32", copy=False)


class ImageBatches(keras.utils.PyDataset):
    """Batches of a sequence of images, shuffled anew in every epoch.

    `fit(batches, shuffle=False)` takes the batches in the order given here. Without
    `shuffle=False` Keras takes them in an order of its own, which no seed of ours settles.

    `epoch` counts by itself from 0: it moves on when `fit` or `evaluate` has taken the last batch.
    To resume, set it to the epoch to go on with before `fit(initial_epoch=epoch)`. (A set of a
    single batch is counted once too often when `fit` first builds a model with it.)

    Args:
        images: sequence (N, H, W, C): a numpy array, uint8 or floats in [-1, 1], or anything
            with a length and an image at each index, such as `ImageFiles`. Bytes stay bytes until
            their batch is asked for.
        labels: (N,) integers of at least 0, or None.
        batch_size: B, images in a batch.
        shuffle: whether every epoch has its own random order.
        flip: whether an image is mirrored left to right, at random, anew in every epoch.
        drop_remainder: whether the last batch is left out when it is smaller than the others.
        seed: integer from which orders and flips are drawn.
        class_names: names of the labels 0, 1, ...; None numbers them.
        threads: how many images are read at once when images is not an array; the batches do
            not depend on it. Keras's own workers are not used: they reorder batches.

    Attributes:
        input_shape: (H, W, C). num_classes: number of names, None without labels.

    Raises:
        ValueError: at construction, on no images, fewer than one batch of them, or an argument
            of another shape, dtype or range.
    """

    def __init__(
        self,
        images,
        labels=None,
        batch_size=128,
        *,
        shuffle=True,
        flip=False,
        drop_remainder=True,
        seed=0,
        class_names=None,
        threads=8,
    ):
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.shuffle, self.flip, self.drop_remainder = shuffle, flip, drop_remainder
        self.seed, self.threads = draws.checked_seed(seed), threads
        self._check_sizes()
        self.input_shape = _image_shape(images)
        if isinstance(images, np.ndarray):
            _as_float(images[:0])  # a wrong dtype shows now
        self.labels = None if labels is None else checked_labels(labels, len(images))
        self.class_names = self._checked_names(class_names)
        self.num_classes = None if labels is None else len(self.class_names)
        self.epoch = 0
        self._begun = self._finished = False

    def _check_sizes(self):
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1. Received: {value}")
        count = len(self.images)
        if count == 0:
            raise ValueError("there is no data: images is empty")
        if len(self) == 0:
            raise ValueError(
                "fewer images than one batch: take a smaller batch_size or drop_remainder=False. "
                f"Received: {count} images, batch_size={self.batch_size}"
            )

    def _checked_names(self, class_names):
        if self.labels is None:
            return None
        count = int(self.labels.max()) + 1
        names = tuple(map(str, range(count) if class_names is None else class_names))
        if len(names) < count:
            raise ValueError(
                f"class_names must name every label up to {count - 1}. Received: {len(names)} names"
            )
        return names

    def __len__(self):
        """The number of batches in an epoch."""
        batches = len(self.images) / self.batch_size
        return math.floor(batches) if self.drop_remainder else math.ceil(batches)

    def batch(self, epoch, index):
        """Batch index of an epoch, whatever was asked for before.

        Args:
            epoch: integer of at least 0.
            index: 0 to `len(self) - 1`.

        Returns:
            `(images, labels)`, or `(images,)` without labels: (B, H, W, C) float32 in [-1, 1],
            (B,) int32.

        Raises:
            IndexError: if there is no such batch.
            OSError: if a picture cannot be read; the message names the file.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        count = len(self.images)
        samples = slice(index * self.batch_size, (index + 1) * self.batch_size)
        order = draws.permutation(count, self.seed, epoch) if self.shuffle else np.arange(count)
        chosen = order[samples]
        images = _as_float(self._read(chosen))  # (B, H, W, C)
        if self.flip:
            mirrored = draws.flips(count, self.seed, epoch)[chosen]
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return (images,) if self.labels is None else (images, self.labels[chosen])

    def _read(self, chosen):
        if isinstance(self.images, np.ndarray):
            return self.images[chosen]
        with ThreadPoolExecutor(self.threads) as pool:
            return np.stack(list(pool.map(self.images.__getitem__, map(int, chosen))))

    def __getitem__(self, index):
        """Batch index of the present epoch."""
        batch = self.batch(self.epoch, index)
        if self._begun and index == len(self) - 1:
            self._finished = True
        return batch

    def on_epoch_begin(self):
        """Called by Keras; also for a first look at one batch, when it builds a model."""
        self._begun, self._finished = True, False

    def on_epoch_end(self):
        """Called by Keras; also before the first epoch, which is why `_finished` decides."""
        self.epoch += self._finished
        self._begun = self._finished = False
