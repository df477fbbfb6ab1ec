"""Batches of images for `fit`, streamed from an array or from files.

Batch i of epoch e holds the samples order_e[i·B … (i + 1)·B − 1], where order_e is drawn from
(seed, e) alone: a pure function of (seed, e, i), so a run can be resumed at any batch. So it is of
images of several sizes, each of whose batches is of one size.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_dit import draws, notices
from keras_dit import images as pixels
from keras_dit.datasets import buckets
from keras_dit.datasets.ahead import Ahead
from keras_dit.datasets.parts import (
    Contents,
    checked_conditions,
    checked_labels,
    part_of,
    taken,
)

__all__ = ["ImageBatches", "batches_of"]


def _image_shape(images):
    shape = getattr(images, "shape", None) or (len(images), *np.shape(images[0]))
    if len(shape) != 4:
        raise ValueError(
            "images must be of shape (N, H, W, C); images[..., None] adds a channel. "
            f"Received: shape={tuple(shape)}"
        )
    return tuple(int(size) for size in shape[1:])


def _as_float(batch, value_range):
    """Pixels in [-1, 1], float32."""
    if value_range is not None:
        low, high = value_range
        return (batch.astype("float32") - low) * np.float32(2 / (high - low)) - np.float32(1)
    if batch.dtype == np.uint8:
        return pixels.from_uint8(batch)
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
    To resume, set it to the epoch to go on with before `fit(initial_epoch=epoch)`.

    Args:
        images: sequence (N, H, W, C): a numpy array, uint8 or floats in [-1, 1], or anything
            with a length and an image at each index, such as `ImageFiles`. Bytes stay bytes until
            their batch is asked for. What has `read(indices, mirrored)`, such as `LatentFiles`,
            reads a batch at once and mirrors by itself. While batches are asked for in a row, the
            next two are read ahead where images is not an array. Where it has `buckets`, which
            say which of its `image_sizes` each image has, batches are of one size each.
        labels: (N,) integers of at least 0, or None.
        batch_size: B, images in a batch.
        shuffle: whether every epoch has its own random order.
        flip: whether an image is mirrored left to right, at random, anew in every epoch.
        drop_remainder: whether the last batch is left out when it is smaller than the others.
        seed: integer from which orders and flips are drawn.
        class_names: names of the labels 0, 1, ...; None numbers them.
        threads: how many images are read at once when images is not an array; the batches do
            not depend on it. Keras's own workers are not used: they reorder batches.
        value_range: (low, high) of the pixels, where they are neither uint8 nor floats in
            [-1, 1]: batches are scaled from it to [-1, 1].
        conditions: what else is known of each image, by the names of a network's conditions: of
            each an array (N, ...), a tuple of such arrays, or a list of N values.

    Attributes:
        input_shape: (H, W, C), of several sizes the first. image_sizes: (H, W) of all.
            num_classes: number of names, None without labels. validation: batches for
            `fit(validation_data=)`, from `load`; None where there are none.
            conditions: all that is known of each image, the labels as "label" among them.

    Raises:
        ValueError: at construction, on no images, fewer than one batch of them, or an argument
            of another shape, dtype or range.

    Example:

    >>> import keras_dit
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> batches = keras_dit.datasets.ImageBatches(images, labels, batch_size=100)
    >>> len(batches), batches.input_shape, batches.num_classes
    (17, (8, 8, 1), 10)
    """

    def __init__(
        self,
        images: Any,
        labels: Sequence[int] | None = None,
        batch_size: int = 128,
        *,
        shuffle: bool = True,
        flip: bool = False,
        drop_remainder: bool = True,
        seed: int = 0,
        class_names: Sequence[str] | None = None,
        threads: int = 8,
        value_range: tuple[float, float] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.shuffle, self.flip, self.drop_remainder = shuffle, flip, drop_remainder
        self.seed, self.threads = draws.checked_seed(seed), threads
        self.value_range = value_range
        self.validation: Any = None
        self._check_sizes()
        self.input_shape = _image_shape(images)
        self.image_sizes = getattr(images, "image_sizes", (self.input_shape[:2],))
        if isinstance(images, np.ndarray):
            _as_float(images[:0], value_range)  # a wrong dtype shows now
        self.labels = None if labels is None else checked_labels(labels, len(images))
        self.conditions = checked_conditions(conditions or {}, len(images))
        if self.labels is not None:
            self.conditions = {"label": self.labels, **self.conditions}
        self.class_names = self._checked_names(class_names)
        self.num_classes = None if labels is None else len(self.class_names)
        self.epoch = 0
        self._building = self._finished = False
        self._ahead = Ahead(self._batch, self._following)

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
                f"fewer images than one batch: choose a batch size of at most {count}, such as "
                f"{usual_batch_size(count)}. Received: {count} images, batch_size={self.batch_size}"
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

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        if self._buckets is not None:
            return len(self.counts)
        batches = len(self.images) / self.batch_size
        return math.floor(batches) if self.drop_remainder else math.ceil(batches)

    @property
    def _buckets(self):
        return getattr(self.images, "buckets", None)

    @property
    def counts(self) -> list[int]:
        """The number of images in each batch, in some order."""
        of = np.zeros(len(self.images), int) if self._buckets is None else self._buckets
        return buckets.counts(of, self.batch_size, self.drop_remainder)

    def batch(self, epoch: int, index: int, part: tuple[int, int] = (0, 1)) -> tuple[Any, ...]:
        """Batch index of an epoch, whatever was asked for before.

        Args:
            epoch: integer of at least 0.
            index: 0 to `len(self) - 1`.
            part: (place, count): only that one of so many equal parts of the batch, as each of
                several processes reads its own.

        Returns:
            `(images, labels)`, or `(images,)` without labels: (B, H, W, C) float32 in [-1, 1],
            (B,) int32. Where more is known than labels, a dict by name is in their place.

        Raises:
            IndexError: if there is no such batch.
            OSError: if an image cannot be read; the message names the file.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        place = epoch, index, part
        return self._batch(place) if isinstance(self.images, np.ndarray) else self._ahead(place)

    def _following(self, place):
        epoch, index, part = place
        if index + 1 < len(self):
            return epoch, index + 1, part
        # Many read their data once: a second epoch says that there may be a third.
        return (epoch + 1, 0, part) if epoch else None

    def _batch(self, place):
        epoch, index, part = place
        count = len(self.images)
        order = draws.permutation(count, self.seed, epoch) if self.shuffle else np.arange(count)
        if self._buckets is None:
            samples = order[index * self.batch_size : (index + 1) * self.batch_size]
        else:
            samples = self._samples(order, epoch)[index]
        chosen = part_of(samples, part)
        mirrored = draws.flips(count, self.seed, epoch)[chosen] if self.flip else None
        images = _as_float(self._read(chosen, mirrored), self.value_range)  # (B, H, W, C)
        if not self.conditions:
            return (images,)
        known = {name: taken(values, chosen) for name, values in self.conditions.items()}
        return images, known["label"] if list(known) == ["label"] else known

    def _samples(self, order, epoch):
        """Those of each batch of an epoch of several sizes."""
        cuts = buckets.batches(self._buckets, order, self.batch_size, self.drop_remainder)
        if not self.shuffle:
            return cuts
        return [cuts[i] for i in draws.permutation(len(cuts), self.seed, epoch)]

    def first(self, count: int) -> "ImageBatches":
        """Batches of the first so many of the images."""
        return self._of(np.arange(count))

    def of_each_size(self) -> "list[ImageBatches]":
        """The images of each of several sizes, and of those for validation, by themselves.

        A size of which there are none is left out.
        """
        if self._buckets is None:
            return [self]
        held = [] if self.validation is None else self.validation.of_each_size()
        beside = {each.image_sizes: each for each in held}
        found = []
        for bucket, size in enumerate(self.image_sizes):
            places = np.flatnonzero(self._buckets == bucket)
            if len(places):
                one = self._of(places)
                one.images = one.images.at([size])
                one.image_sizes, one.input_shape = (size,), (*size, self.input_shape[-1])
                one.validation = beside.get((size,))
                found.append(one)
        return found

    def _of(self, places):
        fewer = copy.copy(self)
        fewer.images = getattr(self.images, "subset", self.images.__getitem__)(places)
        fewer.conditions = {n: taken(values, places) for n, values in self.conditions.items()}
        fewer.labels = fewer.conditions.get("label")
        fewer._ahead = Ahead(fewer._batch, fewer._following)
        return fewer

    def _read(self, chosen, mirrored):
        if hasattr(self.images, "read"):
            return self.images.read(chosen, mirrored)
        if isinstance(self.images, np.ndarray):
            images = self.images[chosen]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                images = np.stack(list(pool.map(self.images.__getitem__, map(int, chosen))))
        if mirrored is None:
            return images
        return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Batch index of the present epoch."""
        batch = self.batch(self.epoch, index)
        if index == len(self) - 1:
            self._finished = True
        return batch

    @property
    def workers(self) -> int:
        """Asked for by Keras once, when `fit` or `evaluate` begins."""
        self._building = True
        return 1

    def on_epoch_end(self) -> None:
        """Called by Keras; also once before the first epoch, when it may have built a model."""
        self.epoch += self._finished and not self._building
        self._building = self._finished = False


def usual_batch_size(count: int, most: int = 128) -> int:
    """The largest power of two, up to `most`, of which so many images make four batches."""
    return min(most, 2 ** max(0, int(math.log2(max(count, 1) / 4))))


def _with_enough(contents, batch_size):
    """The contents without sizes of which there is no whole batch; their images have the next."""
    if getattr(contents.images, "buckets", None) is None:
        return contents
    before, images = contents.images.image_sizes, contents.images.without_small(batch_size)
    lost = [size for size in before if size not in images.image_sizes]
    if lost:
        words = ", ".join(f"{height} x {width}" for height, width in lost)
        notices.warn(f"of {words} there are fewer images than a batch: they are of the next size")
    held = contents.validation
    if lost and held is not None:
        held = held._replace(images=held.images.at(images.image_sizes))
    return contents._replace(images=images, validation=held)


def batches_of(
    contents: Contents, batch_size: int | None = None, *, threads: int = 8, **moving: Any
) -> ImageBatches:
    """Batches of what a source holds, for training, with those for validation beside them.

    Args:
        contents: of the source.
        batch_size: images in a batch; None: 128, or less for fewer than 512 images.
        threads: how many images are read at once.
        moving: `flip`, `seed` and `drop_remainder` of the training batches. Those for validation
            are whole and in one order.
    """

    def made(part, batch_size, **options):
        return ImageBatches(
            part.images,
            part.labels,
            batch_size,
            class_names=part.class_names,
            value_range=part.value_range,
            threads=threads,
            conditions=part.conditions,
            **options,
        )

    size = usual_batch_size(len(contents.images)) if batch_size is None else batch_size
    contents = _with_enough(contents, size)
    batches = made(contents, size, **moving)
    if contents.validation is not None:
        still = {"shuffle": False, "drop_remainder": False}
        batches.validation = made(contents.validation, size, **still)
    return batches
