"""What `fit` and `evaluate` are given: the forms that are taken, as Keras is given them.

Keras's trainers drop sample weights that have no labels beside them, and take a list for several
inputs. So images in a list are stacked here, and weights without labels get zeros beside them.
"""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_dit.datasets import LatentFiles
from keras_dit.training import checks

__all__ = ["plain_batch", "taken"]


def taken(x: Any, y: Any, sample_weight: Any, network: Any, codec: Any) -> tuple[Any, Any, Any]:
    """x, y and sample_weight as Keras takes them.

    Args:
        x: images, an array or a list of them; or a data set of (images, values, sample weights),
            of which the first one or two are enough and the values may be None.
        y: the values of the network's conditions; None with a data set.
        sample_weight: numbers (N,) by which each sample's loss is multiplied, or None.
        network, codec: those of the `Diffusion`.

    Raises:
        ValueError: for what does not fit. Arrays are checked whole, of a data set the first batch.
    """
    if x is None:
        raise ValueError("give images as x. Received: x=None")
    if hasattr(x, "shape") or isinstance(x, (list, tuple, dict, str)):
        images, y, sample_weight = plain_batch((x, y, sample_weight))
        _check(images, y, sample_weight, network, codec)
        return _filled(images, y, sample_weight)
    if y is not None or sample_weight is not None:
        raise ValueError(
            "a data set gives labels and sample weights in its batches, (images, labels, weights): "
            f"give no y and no sample_weight beside it. Received: x={type(x).__name__}"
        )
    if isinstance(getattr(x, "images", None), LatentFiles):
        checks.latents(x.images, codec)
    first, x = _first(x)
    if first is None:
        raise ValueError("the data set is empty")
    _check(*plain_batch(first), network, codec)
    return (x if _is_plain(first) else _mapped(x)), None, None


def plain_batch(batch: Any) -> tuple[Any, Any, Any]:
    """images, values and sample weights of a batch, as arrays or None.

    Raises:
        ValueError: for a batch in another form.
    """
    batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if len(batch) > 3 or isinstance(batch[0], dict):
        given = isinstance(batch[0], dict)
        came = f"a dict of {list(batch[0])}" if given else f"{len(batch)} parts"
        raise ValueError(
            "a batch must be images, (images, labels) or (images, labels, sample_weight), and x an "
            "array of images: of a dict give the parts, such as fit(data['image'], data['label']) "
            f"or dataset.map(lambda b: (b['image'], b['label'])). Received: {came}"
        )
    images, values, sample_weight = (*batch, None, None)[:3]
    return _stacked(images), _arrays(values), _arrays(sample_weight)


def _stacked(images):
    if hasattr(images, "shape"):
        return images
    if not isinstance(images, (list, tuple)):
        raise ValueError(
            "images must be an array (batch, height, width, channels) or a list of arrays "
            f"(height, width, channels). Received: {type(images).__name__}"
        )
    images = [np.asarray(keras.ops.convert_to_numpy(image)) for image in images]
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(f"images of a list must be of one shape. Received: {shapes[:3]}")
    return np.stack(images) if images else np.zeros((0, 0, 0, 0), "float32")


def _arrays(values):
    """Lists as arrays; of a dict each value."""
    if isinstance(values, dict):
        return {name: _arrays(value) for name, value in values.items()}
    return np.asarray(values) if isinstance(values, (list, tuple)) else values


def _filled(images, values, sample_weight):
    if values is None and sample_weight is not None:
        values = sample_weight * 0  # in the kind of array that it is, in a tf.data.Dataset too
    return images, values, sample_weight


def _is_plain(batch):
    """Whether Keras reads the batch as it is meant here."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    alone = len(parts) < 3 or parts[1] is not None or parts[2] is None
    return alone and not any(isinstance(part, (list, tuple)) for part in parts)


def _check(images, values, sample_weight, network, codec):
    checks.batch(images, values, network, codec)
    if sample_weight is None:
        return
    shape, count = tuple(sample_weight.shape), images.shape[0]
    if shape not in ((count,), (count, 1)):
        raise ValueError(
            f"sample_weight must be {count} numbers, one for each image. Received: shape {shape}"
        )


def _first(x):
    """The first batch of a data set, None if there is none, and the whole data set."""
    if isinstance(x, keras.utils.PyDataset):
        return (None if x.num_batches == 0 else x[0]), x
    if not isinstance(x, Iterable):
        raise ValueError(
            "x must be images or a data set: a keras.utils.PyDataset, a tf.data.Dataset, a torch "
            f"DataLoader or a generator. Received: {type(x).__name__}"
        )
    iterator = iter(x)
    first = next(iterator, None)
    if iterator is x:  # a generator: what was taken has to be put back
        x = _chained(first, iterator)
    return first, x


def _chained(first, rest):
    """A generator whose first batch has been looked at: that batch, then the rest."""
    yield first
    yield from rest


def _mapped(x):
    """The data set with batches that Keras reads as they are meant."""
    if isinstance(x, keras.utils.PyDataset):
        return _Mapped(x, lambda batch: _filled(*plain_batch(batch)))
    if hasattr(x, "map") and hasattr(x, "element_spec"):  # a tf.data.Dataset, which has no lists
        return x.map(_filled)
    if hasattr(x, "collate_fn"):  # a torch DataLoader
        x = copy.copy(x)
        x.collate_fn = functools.partial(_collated, x.collate_fn)
        return x
    return (_filled(*plain_batch(batch)) for batch in x)


def _collated(collate, rows):
    return _filled(*plain_batch(collate(rows)))


class _Mapped(keras.utils.PyDataset):
    def __init__(self, data: keras.utils.PyDataset, function: Callable):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.function = data, function

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return self.function(self.data[index])

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()
