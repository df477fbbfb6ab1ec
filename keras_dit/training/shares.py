"""Data of a training on several devices: batches that they can share, of which each process reads
its own part."""

from collections.abc import Callable
from typing import Any

import keras

from keras_dit import backend
from keras_dit.training.checkpoints import positions

__all__ = ["check", "fit", "still"]

USUAL = 32  # images of a batch, where Keras is not told


def check(model: keras.Model, x: Any, batch_size: int | None = None) -> None:
    """Raise ValueError for batches that the devices cannot share equally.

    Args:
        model: that is trained or tested.
        x: images, or a data set. Of one that says neither its number of images nor its batches by
            number nothing is known here.
        batch_size: of images.
    """
    devices = backend.share(model)
    if devices == 1:
        return
    for size in _sizes(x, batch_size):
        if size % devices:
            fitting = [n for n in (size - size % devices, size + devices - size % devices) if n]
            raise ValueError(
                f"{devices} devices cannot share a batch of {size} images equally: give batches of "
                f"{' or '.join(map(str, fitting))}, and leave out what remains at the end "
                "(ImageBatches does by itself, of arrays give so many images that none remain)"
            )


def _sizes(x, batch_size):
    """Of the batches: the usual one, and that at the end of an epoch."""
    if hasattr(x, "shape"):
        count, size, drops = x.shape[0], batch_size or USUAL, False
    elif hasattr(x, "batch_size") and hasattr(x, "images"):
        count, size, drops = len(x.images), x.batch_size, getattr(x, "drop_remainder", False)
    elif isinstance(x, keras.utils.PyDataset):
        return [len(x[0][0])]
    else:
        return []
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
