"""Data whose batches can be had from any place of any epoch on, or a part of each of them."""

import math
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit import backend, draws
from keras_dit.datasets.parts import part_of


class ArrayBatches:
    """Batches of arrays in an order that is drawn from (seed, epoch).

    Args:
        arrays: images, labels, sample weights; those that are None are left out at the end.
        batch_size: None: 32, as in Keras.
        shuffle: whether every epoch has its own random order.
        seed: integer; None: a random one.
    """

    def __init__(self, arrays, batch_size=None, shuffle=True, seed=None):
        while arrays[-1] is None:
            arrays = arrays[:-1]
        self.arrays = [None if a is None else ops.convert_to_numpy(a) for a in arrays]
        self.images = self.arrays[0]
        self.batch_size, self.shuffle = batch_size or 32, shuffle
        self.seed = backend.agreed(random.getrandbits(32)) if seed is None else seed

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def batch(self, epoch, index, part=(0, 1)):
        """Batch index of an epoch, or one of so many equal parts of it."""
        count = len(self.images)
        order = draws.permutation(count, self.seed, epoch) if self.shuffle else np.arange(count)
        chosen = part_of(order[index * self.batch_size : (index + 1) * self.batch_size], part)
        return tuple(None if array is None else array[chosen] for array in self.arrays)


class EpochView(keras.utils.PyDataset):
    """An epoch of data with `batch(epoch, index, part)`, from batch `start` on, as `fit` reads it.

    Args:
        data: such as `ArrayBatches`.
        steps: batches of an epoch, which then go on in the data where those of the last ended;
            None: all.
    """

    def __init__(self, data, steps: int | None = None):
        super().__init__()
        self.data, self.steps, self.epoch, self.start = data, steps or len(data), 0, 0
        self.part = backend.processes()  # of each batch, that this process reads

    def go_to(self, epoch: int) -> None:
        """Read that epoch from now on."""
        self.epoch = epoch

    @property
    def num_batches(self):
        return self.steps - self.start

    def __getitem__(self, index):
        number = self.epoch * self.steps + self.start + index
        place = divmod(number, len(self.data))
        if self.part == (0, 1):
            return self.data.batch(*place)
        return self.data.batch(*place, self.part)


class Changed(keras.utils.PyDataset):
    """A data set whose batches are changed on their way.

    Args:
        data: to read.
        change: batch -> batch.
    """

    def __init__(self, data: keras.utils.PyDataset, change: Callable[[Any], Any]):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.change = data, change

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return self.change(self.data[index])

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


def _own_part(batch):
    """Of a batch what this process is to see."""
    part = backend.processes()
    return tree.map_structure(lambda rows: None if rows is None else part_of(rows, part), batch)


def placed(x, y, sample_weight, arguments: dict, seed: int | None = None):
    """Data that knows its places, as an `EpochView`; other data as it is.

    Args:
        x, y, sample_weight: arrays, or a data set and None.
        arguments: of `keras.Model.fit`, of which those are taken out that are answered here.
        seed: of the order of arrays; None: a random one.

    Raises:
        ValueError: if `validation_split` leaves no images on one side, or each of several
            processes would shuffle batches by itself.
    """
    batch_size, shuffle = arguments.pop("batch_size", None), arguments.pop("shuffle", True)
    if hasattr(x, "shape"):
        arrays = x, y, sample_weight
        split = arguments.pop("validation_split", None)
        if split and arguments.get("validation_data") is None:
            arrays, arguments["validation_data"] = _split(arrays, split)
        x = ArrayBatches(arrays, batch_size, shuffle, seed)
    if not hasattr(x, "batch") or not hasattr(x, "images"):  # a tf.data.Dataset has another `batch`
        arguments["shuffle"] = shuffle
        return _parts(x, shuffle)
    arguments["shuffle"] = False  # its order is its own
    return EpochView(x, arguments.pop("steps_per_epoch", None))


def _parts(x, shuffle):
    """What this process reads of a data set that knows no parts."""
    if backend.processes()[1] == 1 or not isinstance(x, keras.utils.PyDataset):
        return x
    if shuffle:
        raise ValueError(
            "shuffle=True orders the batches of a PyDataset in each process by itself: leave it "
            "out, and shuffle in the data set, by a seed that all processes share"
        )
    return Changed(x, _own_part)


def _split(arrays, share):
    """The first part and the last share of each array, as Keras splits them."""
    count = len(arrays[0])
    place = math.floor(count * (1.0 - share))
    if not 0 < place < count:
        raise ValueError(
            "validation_split must leave images on both sides. "
            f"Received: validation_split={share} of {count} images"
        )
    first = tuple(None if a is None else a[:place] for a in arrays)
    return first, tuple(None if a is None else a[place:] for a in arrays)


def description(data):
    """What two data sets have to share for a training to go on with the other."""
    names = ("batch_size", "shuffle", "flip", "drop_remainder", "seed")
    own = {name: getattr(data, name) for name in names if hasattr(data, name)}
    own["draft"] = getattr(data.images, "draft", False)
    sizes = getattr(data, "image_sizes", ())
    several = {"image_sizes": [list(size) for size in sizes]} if len(sizes) > 1 else {}
    return {"images": len(data.images), **own, **several}


def check_same(path, here, there, changes=()):
    """Raise ValueError if the data is not what the checkpoint was made with, but for `changes`."""
    before = {"draft": False}  # what 0.1.0, which had none, did not write down
    here, there = {**before, **here}, {**before, **there}
    wrong = [name for name in there if here.get(name) != there[name] and name not in changes]
    if wrong:
        listed = ", ".join(f"{name}={here.get(name)}, was {there[name]}" for name in wrong)
        raise ValueError(f"the data is not that of the checkpoint {path}: {listed}")
