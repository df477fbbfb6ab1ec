"""What `fit` and `evaluate` are given: the forms that are taken, as Keras is given them.

Keras's trainers drop sample weights that have no labels beside them, and take a list for several
inputs. So images in a list are stacked here, and weights without labels get zeros beside them.
Values that are no numbers, such as texts, are read by their conditions on the host, batch by batch.
"""

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_dit import backend
from keras_dit.datasets import LatentFiles
from keras_dit.training import checks
from keras_dit.training.checkpoints.positions import Changed

__all__ = ["plain_batch", "read_batch", "taken"]


def taken(
    x: Any,
    y: Any,
    sample_weight: Any,
    network: Any,
    codec: Any,
    look: Callable[[Any], Any] | None = None,
) -> tuple[Any, Any, Any]:
    """x, y and sample_weight as Keras takes them.

    Args:
        x: images, an array or a list of them; or a data set of (images, values, sample weights),
            of which the first one or two are enough and the values may be None.
        y: the values of the network's conditions; None with a data set.
        sample_weight: numbers (N,) by which each sample's loss is multiplied, or None.
        network, codec: those of the `Diffusion`.
        look: given the images of the first batch of a data set, which may be read only once.

    Raises:
        ValueError: for what does not fit. Arrays are checked whole, of a data set the first batch.
    """
    if x is None:
        raise ValueError("give images as x. Received: x=None")
    if hasattr(x, "shape") or isinstance(x, (list, tuple, dict, str)):
        images, y, sample_weight = plain_batch((x, y, sample_weight))
        _check(images, y, sample_weight, network, codec)
        return _filled(images, read(y, network, len(images)), sample_weight)
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
    if look is not None:
        look(plain_batch(first)[0])
    return (x if _is_plain(first) else _mapped(x, first, network)), None, None


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


def read(values: Any, network: Any, count: int) -> Any:
    """The values of a batch as a step takes them: what is no number as its condition reads it.

    Args:
        values: of the network's conditions, or None.
        network: that of the `Diffusion`.
        count: of the batch.

    Raises:
        ValueError: for a value that its condition refuses.
    """
    return network.check(values, count) if _to_be_read(values) else values


def read_batch(batch: Any, network: Any) -> tuple[Any, Any, Any]:
    """`plain_batch` with its values as a step takes them."""
    images, values, sample_weight = plain_batch(batch)
    return images, read(values, network, len(images)), sample_weight


def _to_be_read(values):
    """Whether any of the values are in a list, or in an array of something else than numbers."""
    of_each = list(values.values()) if isinstance(values, dict) else [values]
    return any(isinstance(x, list) or any(map(_holds_texts, tree.flatten(x))) for x in of_each)


def _holds_texts(array):
    if isinstance(array, (str, bytes)):
        return True
    dtype = getattr(array, "dtype", None)
    return getattr(dtype, "kind", None) in {*"OSTU"} or "string" in str(dtype)


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
    """Lists of numbers as arrays; of a dict each value."""
    if isinstance(values, dict):
        return {name: _arrays(value) for name, value in values.items()}
    if not isinstance(values, (list, tuple)):
        return values
    try:
        array = np.asarray(values)
    except ValueError:  # of several lengths
        return values
    return values if array.dtype.kind in "OSTU" else array


def _filled(images, values, sample_weight):
    if values is None and sample_weight is not None:
        values = sample_weight * 0  # in the kind of array that it is, in a tf.data.Dataset too
    return images, values, sample_weight


def _ready(batch, network):
    """A batch for Keras, without what is None at its end: TensorFlow has no tensor for that."""
    images, values, sample_weight = _filled(*read_batch(batch, network))
    if sample_weight is not None:
        return images, values, sample_weight
    return (images,) if values is None else (images, values)


def _is_plain(batch):
    """Whether Keras reads the batch as it is meant here."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    alone = len(parts) < 3 or parts[1] is not None or parts[2] is None
    listed = any(isinstance(part, (list, tuple)) for part in parts)
    return alone and not listed and not _to_be_read((*parts, None)[1])


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


def _mapped(x, first, network):
    """The data set with batches that Keras reads as they are meant."""
    if isinstance(x, keras.utils.PyDataset):
        known = hasattr(x, "batch") and hasattr(x, "images")
        return (_MappedImages if known else Changed)(x, functools.partial(_ready, network=network))
    if hasattr(x, "map") and hasattr(x, "element_spec"):  # a tf.data.Dataset, which has no lists
        x = x.map(_filled) if len(first) == 3 else x
        if not _to_be_read(first[1]):
            return x
        return backend.mapped_on_host(x, functools.partial(_read_arrays, network))
    if hasattr(x, "collate_fn"):  # a torch DataLoader
        x = copy.copy(x)
        x.collate_fn = functools.partial(_collated, x.collate_fn, network)
        return x
    return (_ready(batch, network) for batch in x)


def _collated(collate, network, rows):
    return _ready(collate(rows), network)


def _read_arrays(network, batch):
    """A batch of a tf.data.Dataset, as numpy arrays."""
    images, values, *rest = batch
    return images, read(values, network, len(images)), *rest


class _MappedImages(Changed):
    """Batches that can be had from any place on, and what else is known of their images."""

    def __len__(self):
        return len(self.data)

    def __getattr__(self, name):
        if name == "data":  # not there yet
            raise AttributeError(name)
        return getattr(self.data, name)

    def batch(self, *place):
        return self.change(self.data.batch(*place))
