"""Averages as they were on the way, each in a file: what an average of any length is made of."""

import math
import os
import pathlib
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.files import leftovers
from keras_dit.training.checkpoints import files
from keras_dit.training.profiles import Power

__all__ = ["Snapshot", "Snapshots", "opened", "times"]

DTYPES = ("float16", "float32")


class Snapshots(keras.callbacks.Callback):
    """Writes the averages of a `Power` on the way, from which `load` makes one of any length.

    They lie evenly over the training, at multiples of a power of two of its updates: of a training
    whose length is not known, or that becomes longer than it was to be, every second one goes. So
    there are always between half as many as `keep` and as many, and the last one. Each takes
    2 bytes (float16) for each weight and width.

    A training that was killed and goes on from a `Checkpoint` ends with the same files.

    Args:
        folder: where they are; created if missing.
        keep: how many there are at most, beside the last one.
        dtype: "float16" or "float32", of the numbers in the files.
        resume: whether snapshots in the folder are of this training, as for `Checkpoint`: those
            before the place where it goes on stay, later ones are removed and made again.

    Raises:
        ValueError: in `fit`, if the model has no such average, or the folder has snapshots and
            `resume` is False.
        OSError: in `fit`, if one cannot be written. Those before it stay.

    Example:

    >>> snapshots = Snapshots("run/averages")
    >>> # diffusion.fit(images, labels, epochs=100, callbacks=[snapshots])
    >>> snapshots.keep
    32
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int = 32,
        dtype: str = "float16",
        resume: bool = False,
    ):
        super().__init__()
        if keep < 1:
            raise ValueError(f"keep must be 1 or more. Received: keep={keep}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}. Received: dtype={dtype!r}")
        self.folder, self.keep, self.dtype = pathlib.Path(folder), keep, dtype
        self.resume = resume
        # Not numbers, which a checkpoint gives back: these are found anew.
        self._place = _Place(0, 0, 0)
        self._times: list[int] = []  # of the snapshots that there are

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        if model.average is None or not isinstance(model.ema, Power):
            raise ValueError(
                f"snapshots are of a model with ema={Power.example}. Received: ema={model.ema!r}"
            )
        there = times(self.folder)
        if there and not self.resume:
            raise ValueError(
                f"{self.folder} holds snapshots already: Snapshots(..., resume=True) goes on with "
                "them, another folder begins anew"
            )
        batches = model.optimizer.gradient_accumulation_steps or 1  # of an update
        steps = (self.params.get("epochs") or 1) * (self.params.get("steps") or 0)
        self._place = _Place(steps // batches, self._updates(), 0)
        later = [t for t in there if t > self._place.updates]
        if backend.leads():
            for path in [*(path_of(self.folder, t) for t in later), *leftovers(self.folder)]:
                path.unlink()
        self._times = [t for t in there if t not in later]

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        total, updates, steps = self._place
        steps += batch + 1 - self._first  # several, where they are compiled together
        # To read a number makes the program wait for the device: only when it may be time.
        if self._is_due(updates + steps):
            updates, steps = self._updates(), 0
            if self._is_due(updates):
                self._write(updates)
        self._place = _Place(total, updates, steps)

    def on_train_end(self, logs: Any = None) -> None:
        updates = self._updates()
        if updates and updates not in self._times:
            self._write(updates)

    def _updates(self):
        return int(ops.convert_to_numpy(self.model.average.updates))

    def _spacing(self, updates):
        """Updates between two snapshots, of a training of at least so many."""
        longest = max(self._place.total, updates, 1)
        return 2 ** max(0, math.ceil(math.log2(longest / self.keep)))

    def _is_due(self, updates):
        spacing = self._spacing(updates)
        place = updates // spacing
        return place > 0 and all(t // spacing != place for t in self._times)

    def _write(self, updates):
        average, arrays = self.model.average, {}
        for profile in average.profiles:
            for name, variable in average.by_name(profile).items():
                arrays[f"{profile.std:g}/{name}"] = _stored(variable, self.dtype)
        facts = {"updates": updates, "stds": list(self.model.ema.stds)}
        if backend.leads():
            files.write(path_of(self.folder, updates), arrays, facts)
        self._times.append(updates)
        self._thin(updates)

    def _thin(self, updates):
        """Leave the first of each place, and the last one."""
        spacing, kept = self._spacing(updates), {}
        for t in sorted(self._times):
            if t >= spacing:
                kept.setdefault(t // spacing, t)
        left = sorted({*kept.values(), updates})
        if backend.leads():
            for t in set(self._times) - set(left):
                path_of(self.folder, t).unlink(missing_ok=True)
        self._times = left


class _Place(NamedTuple):
    total: int  # updates of the whole training, as far as that is known
    updates: int  # when they were last read
    steps: int  # since


class Snapshot:
    """A file of averages.

    Args:
        path: of the file.

    Attributes:
        at: updates of the averages until then.
        stds: their widths.
        names: of the weights.

    Raises:
        CorruptCheckpointError: for a damaged file.
    """

    def __init__(self, path: pathlib.Path):
        self._arrays, facts = files.read(path)
        self.at, self.stds = int(facts["updates"]), tuple(facts["stds"])
        first = f"{self.stds[0]:g}/"
        self.names = [n.removeprefix(first) for n in self._arrays if n.startswith(first)]

    def average(self, std: float, name: str) -> np.ndarray:
        """The average of one weight, mapped from the file."""
        return self._arrays[f"{std:g}/{name}"]


def path_of(folder: str | os.PathLike, updates: int) -> pathlib.Path:
    """Where the snapshot after so many updates lies."""
    return pathlib.Path(folder) / f"updates_{updates:08d}.safetensors"


def times(folder: str | os.PathLike) -> list[int]:
    """The numbers of updates of the snapshots in a folder, rising."""
    found = pathlib.Path(folder).glob("updates_*.safetensors")
    return sorted(int(path.stem.partition("_")[2]) for path in found)


def opened(folder: str | os.PathLike, at: int | None = None) -> list[Snapshot]:
    """The snapshots of a folder until one of them.

    Args:
        folder: that a `Snapshots` has written.
        at: updates of the last one that is wanted; None: all.

    Raises:
        FileNotFoundError: if there are none, or none of that time.
    """
    there = times(folder)
    if not there:
        raise FileNotFoundError(f"no snapshots of averages in {folder}")
    if at is not None and at not in there:
        listed = ", ".join(map(str, there))
        raise FileNotFoundError(f"no snapshot at update {at} in {folder}; there are: {listed}")
    return [Snapshot(path_of(folder, t)) for t in there if at is None or t <= at]


def _stored(variable, dtype):
    array = np.asarray(ops.convert_to_numpy(variable))
    with np.errstate(over="ignore"):
        smaller = array.astype(dtype)
    return smaller if np.isfinite(smaller).all() else array  # one above 65504 stays float32
