"""Images that are kept as they come: a folder of PNG, or ADM's `.npz`.

Each image has its place, so that a run that goes on writes the same files; and none of the two
needs all images in memory.
"""

import abc
import contextlib
import os
import pathlib
import shutil
import zipfile
from typing import Any

import numpy as np

from keras_dit import files
from keras_dit import images as pixels

__all__ = ["Batch", "Folder", "Kept", "kept", "save_batch"]

_CHUNK = 2**24


class Kept(abc.ABC):
    """A place for the images of a set."""

    @abc.abstractmethod
    def write(self, start: int, images: np.ndarray) -> None:
        """Keep images, uint8 (B, H, W, C), as those from `start` on."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Bring what was written to the disk."""

    @abc.abstractmethod
    def finish(self, labels: Any) -> None:
        """All images are there."""


class Folder(Kept):
    """A file for each image: 000012.png.

    Args:
        path: of the folder; created if missing.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def write(self, start: int, images: np.ndarray) -> None:
        for i, image in enumerate(images, start):
            pixels.save_png(self.path / f"{i:06d}.png", image)

    def flush(self) -> None:
        """Nothing: each file is whole already."""

    def finish(self, labels: Any) -> None:
        """Nothing: all files are there."""


class Batch(Kept):
    """One `.npz` with arr_0, uint8 (N, H, W, C), and arr_1, the labels where there are any.

    On the way the images stand in a file beside it, `.NAME.part`.

    Args:
        path: of the `.npz`.
        shape: (N, H, W, C).
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, ...]):
        self.path, self.shape = pathlib.Path(path), tuple(shape)
        self.part = self.path.with_name(f".{self.path.name}.part")
        self._array: np.ndarray | None = None

    def _open(self, begin=False):
        if self._array is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, ValueError):
                self._array = np.lib.format.open_memmap(self.part, mode="r+")
        fits = self._array is not None and self._array.shape == self.shape
        if not fits and not begin:
            raise ValueError(f"the images that were kept in {self.part} are gone: begin anew")
        if not fits:
            self._array = np.lib.format.open_memmap(self.part, "w+", "uint8", self.shape)
        return self._array

    def write(self, start: int, images: np.ndarray) -> None:
        self._open(begin=start == 0)[start : start + len(images)] = images

    def flush(self) -> None:
        self._open().flush()

    def finish(self, labels: Any) -> None:
        if self.path.is_file() and not self.part.is_file():
            return  # done by a run before
        self.flush()
        self._array = None
        with files.beside(self.path) as new, zipfile.ZipFile(new, "w") as target:
            entry = target.open("arr_0.npy", "w", force_zip64=True)
            with open(self.part, "rb") as source, entry as to:
                shutil.copyfileobj(source, to, _CHUNK)
            if labels is not None:
                with target.open("arr_1.npy", "w") as to:
                    np.lib.format.write_array(to, np.asarray(labels, "int64"))
        self.part.unlink()


def kept(path: str | os.PathLike, shape: tuple[int, ...]) -> Kept:
    """Where images of that shape (N, H, W, C) are kept: `.npz`, or else a folder.

    Raises:
        ValueError: for another suffix, or a file where a folder should be.
    """
    place = pathlib.Path(path)
    if place.suffix == ".npz":
        return Batch(place, shape)
    if place.suffix or (place.exists() and not place.is_dir()):
        raise ValueError(f"images are kept in a folder or an .npz file. Received: {path}")
    return Folder(place)


def save_batch(path: str | os.PathLike, images: np.ndarray, labels: Any) -> None:
    """Write images, uint8 (N, H, W, C), in ADM's format at once."""
    batch = Batch(path, images.shape)
    batch.write(0, images)
    batch.finish(labels)
