"""Data of a training on several devices: batches that they can share, of which each process reads
its own part."""

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.training.checkpoints import positions
from keras_dit.training.data import plain_batch

__all__ = ["check", "fit", "still"]

USUAL = 32  # images of a batch, where Keras is not told


def check(model: keras.Model, x: Any, batch_size: int | None = None, first: Any = None) -> None:
    """Raise ValueError for batches that the devices cannot share equally, or do not share.

    Args:
        model: that is trained or tested.
        x: images, or a data set. Of one that says neither its number of images nor its batches by
            number the first batch alone is known here.
        batch_size: of images.
        first: images of the first batch that this process has read of a data set.
    """
    devices = backend.share(model)
    if devices == 1:
        return
    if first is not None and backend.processes()[1] > 1:
        _check_read(x, first)
    for size in _sizes(x, batch_size, first):
        if size % devices:
            fitting = [n for n in (size - size % devices, size + devices - size % devices) if n]
            raise ValueError(
                f"{devices} devices cannot share a batch of {size} images equally: give batches of "
                f"{' or '.join(map(str, fitting))}, and leave out what remains at the end "
                "(ImageBatches does by itself, of arrays give so many images that none remain)"
            )


def _check_read(x, first):
    """Raise ValueError where processes have read the same that should share, or the reverse."""
    if _knows_parts(x):
        return
    number = zlib.crc32(np.ascontiguousarray(ops.convert_to_numpy(first)).tobytes()) >> 1
    same = backend.anywhere(number) == -backend.anywhere(-number)
    if isinstance(x, keras.utils.PyDataset):
        if not same:
            raise ValueError(
                "the processes have read different batches of a PyDataset, of which each reads the "
                "whole and keeps its part: shuffle it by a seed that all share, or give it "
                "`images` and `batch(epoch, index, part)`, with which each reads its part alone"
            )
    elif same:
        raise ValueError(
            f"each of {backend.processes()[1]} processes has read the same batch of the "
            f"{type(x).__name__}, where each is to have its own part: give a DataLoader a "
            "torch.utils.data.DistributedSampler, a tf.data.Dataset `shard`, a grain data set a "
            "slice, or use arrays, a keras.utils.PyDataset or datasets.ImageBatches, which are "
            "shared out here"
        )


def _knows_parts(x):
    return hasattr(x, "batch") and hasattr(x, "images")


def _sizes(x, batch_size, first):
    """Of the batches: the usual one, and that at the end of an epoch."""
    if hasattr(x, "shape"):
        count, size, drops = x.shape[0], batch_size or USUAL, False
    elif hasattr(x, "counts"):
        return sorted(set(x.counts))
    elif hasattr(x, "batch_size") and hasattr(x, "images"):
        count, size, drops = len(x.images), x.batch_size, getattr(x, "drop_remainder", False)
    elif isinstance(x, keras.utils.PyDataset):
        last = x.num_batches and plain_batch(x[x.num_batches - 1])[0]
        return [batch.shape[0] for batch in (first, last) if batch is not None]
    elif backend.processes()[1] > 1:
        return []  # it gives parts, not batches
    elif hasattr(x, "drop_last") and hasattr(x.sampler, "__len__"):  # a torch DataLoader
        count, size, drops = len(x.sampler), first.shape[0], x.drop_last
    else:
        return [first.shape[0]]
    sizes = [min(size, count)]
    return sizes if drops or not count % size else [*sizes, count % size]


def fit(
    keras_fit: Callable, x: Any, y: Any, *, sample_weight: Any, callbacks: list, **rest: Any
) -> Any:
    """Keras's `fit`, for which each process reads its own part of every batch.

    Args:
        keras_fit: of the model.
        x, y, sample_weight: images of all processes, or a data set with `batch(epoch, index,
            part)`; another data set has to give each process its own part.
        callbacks, **rest: as for `keras.Model.fit`.
    """
    x = positions.placed(x, y, sample_weight, rest)
    if isinstance(x, positions.EpochView):
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: x.go_to(epoch))
        callbacks = [begin, *callbacks]
    return keras_fit(x, callbacks=callbacks, **rest)


def still(x: Any, y: Any, sample_weight: Any, batch_size: int | None = None) -> tuple:
    """x, y and sample_weight to test on, in their order: of several processes each has its part."""
    if backend.processes()[1] == 1:
        return x, y, sample_weight
    rest = {"batch_size": batch_size, "shuffle": False}
    return positions.placed(x, y, sample_weight, rest), None, None
