"""Posteriors into a folder of latents, batch by batch, from where it was stopped."""

import dataclasses
import io
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dit import files
from keras_dit.datasets.latents import (
    FACTS,
    LABELS,
    LatentFacts,
    condition_files,
    is_latent_folder,
    shard_name,
)

__all__ = ["LatentWriter"]

SHARD_BYTES = 2**26  # of a file, about
SECONDS = 1.0  # of work that a kill may cost


class LatentWriter:
    """Writes posteriors in the order of their images.

    What was appended is brought to the disk and noted in `latents.json` about every second, and
    when the block ends, whatever ends it. A writer that is opened again after a kill begins behind
    the last one that was noted.

    Args:
        folder: to write to, a new one, or one that was begun with the same facts.
        facts: `LatentFacts`; those that a writer settles are left open.
        labels: int32 (N,), or None.
        conditions: what else is known of each image, as for `ImageBatches`.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if it holds latents that are made otherwise, or values are no arrays.
        OSError: if it cannot be written to.

    Example:

    ```python
    with LatentWriter("latents", facts, labels) as writer:
        while writer.done < facts.count:
            writer.append(posteriors(writer.done))  # (n, 1, h, w, 2c)
    ```
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        facts: LatentFacts,
        labels: np.ndarray | None = None,
        conditions: Mapping[str, Any] | None = None,
    ):
        parts = {k: len(v) if isinstance(v, tuple) else 0 for k, v in (conditions or {}).items()}
        facts = dataclasses.replace(facts, conditions=parts)
        self.folder, self.facts = pathlib.Path(folder), facts
        self._waiting: list[np.ndarray] = []  # appended, not yet on the disk
        self._settled = time.monotonic()
        if is_latent_folder(folder):
            self.facts = _gone_on(self.folder, LatentFacts.read(folder), facts)
        else:
            _check_empty(self.folder)
        self._note()
        if labels is not None:
            _save(self.folder / LABELS, np.asarray(labels, "int32"))
        for name, values in (conditions or {}).items():
            arrays = values if isinstance(values, tuple) else (values,)
            for path, array in zip(condition_files(self.folder, name, parts[name]), arrays):
                _save(path, np.asarray(array))

    @property
    def done(self) -> int:
        """Images whose posteriors were appended."""
        return self.facts.done + sum(map(len, self._waiting))

    def append(self, posteriors: np.ndarray) -> None:
        """Write the next ones.

        Args:
            posteriors: (n, 1, h, w, 2c), or (n, 2, h, w, 2c) with those of the mirrored images.

        Raises:
            ValueError: for another shape, or numbers that the files cannot hold.
        """
        expected = (1 + self.facts.flips, *self.facts.shape)
        if posteriors.shape[1:] != expected or len(posteriors) > self.facts.count - self.done:
            raise ValueError(
                f"posteriors must be at most {self.facts.count - self.done} of shape {expected}. "
                f"Received: shape={posteriors.shape}"
            )
        self._waiting.append(_stored(posteriors, self.facts.dtype, self.done))
        if time.monotonic() - self._settled > SECONDS:
            self._settle()

    def _settle(self):
        """Bring what was appended to the disk, then note it: never more than is there."""
        waiting, self._waiting = self._waiting, []
        rows = np.concatenate(waiting) if waiting else ()
        while len(rows):
            room = self.facts.shard - self.facts.done % self.facts.shard
            self._write(rows[:room])
            rows = rows[room:]
        self._note()
        self._settled = time.monotonic()

    def _write(self, rows):
        """Rows that all belong into one file, behind what it holds."""
        index, row = divmod(self.facts.done, self.facts.shard)
        path, header = self.folder / shard_name(index), self._header(index)
        try:
            with path.open("r+b" if row else "wb") as file:
                if row:  # what was written and not noted is made again
                    file.seek(len(header) + row * rows[0].nbytes)
                    file.truncate()
                else:
                    file.write(header)
                file.write(np.ascontiguousarray(rows).data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or error
            message = f"cannot write {path}: {reason}. What was written before is intact"
            raise OSError(error.errno, message) from error
        self.facts = dataclasses.replace(self.facts, done=self.facts.done + len(rows))

    def _header(self, index):
        """The head of an .npy file that holds all that will be in it."""
        rows = min(self.facts.shard, self.facts.count - index * self.facts.shard)
        shape = (rows, 1 + self.facts.flips, *self.facts.shape)
        head, descr = io.BytesIO(), np.lib.format.dtype_to_descr(np.dtype(self.facts.dtype))
        np.lib.format.write_array_header_1_0(
            head, {"descr": descr, "fortran_order": False, "shape": shape}
        )
        return head.getvalue()

    def _note(self):
        with files.beside(self.folder / FACTS) as new:
            new.write_text(self.facts.text())

    def __enter__(self) -> "LatentWriter":
        return self

    def __exit__(self, kind, *_):
        self._settle()
        if self.facts.done == self.facts.count:
            mean, deviation = self._statistics()
            self.facts = dataclasses.replace(self.facts, mean=mean, deviation=deviation)
            self._note()

    def _statistics(self):
        """Mean and deviation per channel of the latents that are drawn, a file at a time."""
        channels = self.facts.shape[2] // 2
        total = square = np.zeros(channels)
        for index in range(-(-self.facts.count // self.facts.shard)):
            part = np.load(self.folder / shard_name(index), mmap_mode="r")
            for rows in np.array_split(part[:, 0], max(1, part.nbytes // 2**24)):
                mean = rows[..., :channels].astype("float64")
                variance = np.exp(rows[..., channels:].astype("float64"))
                total = total + mean.sum((0, 1, 2))
                square = square + (mean**2 + variance).sum((0, 1, 2))
        numbers = self.facts.count * int(np.prod(self.facts.shape[:2]))
        mean = total / numbers
        deviation = np.sqrt(np.maximum(square / numbers - mean**2, 0.0))
        return tuple(mean.tolist()), tuple(deviation.tolist())


def _save(path, array):
    """Write an array unless its file is there."""
    if not path.exists():
        with files.beside(path) as new:
            np.save(new, array, allow_pickle=False)


def posteriors_of_a_file(shape: tuple[int, ...], forms: int, dtype: str) -> int:
    """How many posteriors go into a file."""
    return max(1, SHARD_BYTES // (forms * int(np.prod(shape)) * np.dtype(dtype).itemsize))


def _stored(posteriors, dtype, first):
    with np.errstate(over="ignore"):
        stored = posteriors.astype(dtype)
    good = np.isfinite(stored).all(axis=(1, 2, 3, 4))
    if not good.all():
        raise ValueError(
            f"the posterior of image {first + int(np.argmin(good))} is not finite in {dtype}: "
            "the image or the autoencoder is broken"
        )
    return stored


def _check_empty(folder):
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder")
    there = set(folder.iterdir()) if folder.exists() else set()
    if there - set(files.leftovers(folder)):
        raise FileExistsError(f"{folder} holds something else: choose another folder")


# The same images and autoencoder may be found at another place, and be scaled otherwise.
_ASIDE = {"data", "path", "scale", "shift"}
_SETTLED = ("done", "mean", "deviation")


def _gone_on(folder, there, here):
    """The facts of a folder that was begun; ValueError unless it goes on as it began."""
    one, two = _compared(there), _compared(here)
    wrong = [name for name in two if one.get(name) != two[name]]
    if wrong:
        listed = ", ".join(f"{name} {one.get(name)}, not {two[name]}" for name in wrong[:3])
        raise ValueError(
            f"{folder} was begun with {listed}. Choose another folder, or go on as it began"
        )
    return dataclasses.replace(here, **{name: getattr(there, name) for name in _SETTLED})


def _compared(facts):
    """What two runs into one folder have to share, by name."""
    plain = json.loads(facts.text())  # in which a tuple is a list
    parts = {part: plain.pop(part) for part in ("autoencoder", "source")}
    for part, told in parts.items():
        plain |= {f"{part} {name}": value for name, value in told.items() if name not in _ASIDE}
    return {name: value for name, value in plain.items() if name not in _SETTLED}
