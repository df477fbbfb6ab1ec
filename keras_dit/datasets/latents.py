"""Latents that an autoencoder has made once, as `fit` reads them.

What is kept of an image is its posterior N(μ, σ²), so that every epoch draws its latents anew:

    latents.json           what they are: `LatentFacts`
    labels.npy             int32 (N,), where there are classes
    condition-NAME.npy     what else is known of each image; NAME.0, NAME.1 of a tuple of arrays
    00000.npy, 00001.npy   float16 (n, 1 or 2, h, w, 2c): μ then log σ² on the channels, of the
                           image and, where that was asked for, of the mirrored image
    validation/            the same of images that are kept apart

Of images of several sizes each size has such a folder, 0-64x64, 1-48x80, in a common one.

Arrays are mapped into memory: a batch costs what its samples are, however many there are.
"""

import copy
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_dit.datasets.batches import ImageBatches, batches_of
from keras_dit.datasets.parts import Contents, Rows, checked_labels, divide, limited

__all__ = ["LatentFacts", "LatentFiles", "SizedLatentFiles", "cached_latents", "is_latent_folder",
           "latent_folders", "read_latents"]  # fmt: skip

FORMAT = 1
FACTS, LABELS, VALIDATION = "latents.json", "labels.npy", "validation"


def shard_name(index: int) -> str:
    """The name of the file with that part of the posteriors."""
    return f"{index:05d}.npy"


def condition_files(folder: pathlib.Path, name: str, parts: int) -> list[pathlib.Path]:
    """The files with the values of a condition, one for each array."""
    endings = [f".{i}" for i in range(parts)] or [""]
    return [folder / f"condition-{name}{ending}.npy" for ending in endings]


@dataclass(frozen=True)
class LatentFacts:
    """What a folder of latents says of itself.

    Attributes:
        count: images that it is for. done: those that are written.
        shape: (h, w, 2c) of a posterior. dtype: of its numbers. shard: posteriors in a file.
        flips: whether each image is there mirrored too.
        image_shape: (H, W, C) of the images.
        class_names: names of the labels 0, 1, ..., or None.
        autoencoder: what made them, by name: `path`, `identity`, `scale` and `shift`.
        source: what they were made of, by name.
        conditions: what else is known of each image, by name: of how many arrays a tuple is, 0
            for an array alone.
        mean, deviation: of the latents, a number for each of c channels, before any scale.
    """

    count: int
    shape: tuple[int, ...]
    image_shape: tuple[int, ...]
    dtype: str
    shard: int
    flips: bool = False
    class_names: tuple[str, ...] | None = None
    autoencoder: dict = dataclasses.field(default_factory=dict)
    source: dict = dataclasses.field(default_factory=dict)
    done: int = 0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    conditions: dict[str, int] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """As `latents.json` keeps them."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "LatentFacts":
        """The facts of a folder.

        Raises:
            FileNotFoundError: if it is no folder of latents.
            ValueError: if what it says cannot be understood.
        """
        path = pathlib.Path(folder) / FACTS
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no folder of latents: there is no {path}")
        try:
            found = json.loads(path.read_text())
            version = found.pop("format")
            found = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
            facts = cls(**found)
            _check(facts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is corrupt: {error}") from None
        if version != FORMAT:
            raise ValueError(f"{path} is of format {version}, this version reads {FORMAT}")
        return facts


def _check(facts):
    """Raise ValueError for facts that no writer has written."""
    whole = [facts.count, facts.shard, *facts.shape, *facts.image_shape]
    if not all(isinstance(number, int) and number > 0 for number in whole):
        raise ValueError("counts and shapes must be integers of at least 1")
    if len(facts.shape) != 3 or facts.shape[2] % 2 or len(facts.image_shape) != 3:
        raise ValueError("shapes must be (h, w, 2c) and (H, W, C)")
    if np.dtype(facts.dtype).kind != "f" or not 0 <= facts.done <= facts.count:
        raise ValueError("dtype must be a float's, and done at most count")


class LatentFiles:
    """A sequence of posteriors that are read when they are asked for.

    Args:
        folder: that `keras-dit encode` or `codecs.cache_latents` has written.

    Attributes:
        facts: its `LatentFacts`.
        shape: (N, h, w, 2c).
        image_shape: (H, W, C) of the images that were encoded.

    Raises:
        FileNotFoundError: if it is no such folder, or a file is missing.
        ValueError: if the encoding was stopped before its end, or a file is not what it says.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self.facts = pathlib.Path(folder), LatentFacts.read(folder)
        if self.facts.done < self.facts.count or not self.facts.deviation:
            raise ValueError(
                f"{folder} holds {self.facts.done:,} of {self.facts.count:,} images: give the "
                "command that encodes them again, it goes on where it was"
            )
        self.image_shape = self.facts.image_shape
        self._parts = [self._mapped(i) for i in range(-(-self.facts.count // self.facts.shard))]
        self._places = np.arange(self.facts.count)  # of the samples in the files

    def _mapped(self, index):
        path, facts = self.folder / shard_name(index), self.facts
        rows = min(facts.shard, facts.count - index * facts.shard)
        try:
            # As a plain array, which is cheaper to index.
            part = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.folder} lacks {path.name}") from None
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is corrupt: {error}") from None
        expected = (rows, 1 + facts.flips, *facts.shape)
        if part.shape != expected or part.dtype != facts.dtype:
            raise ValueError(
                f"{path} must be {facts.dtype} of shape {expected}, as {FACTS} says. "
                f"Received: {part.dtype} of shape {part.shape}"
            )
        return part

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, h, w, 2c), without reading a file."""
        return (len(self._places), *self.facts.shape)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._places)

    def __getitem__(self, index: int) -> np.ndarray:
        """Posterior index, (h, w, 2c)."""
        return self.read(np.array([index]))[0]

    def read(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> np.ndarray:
        """The posteriors of these indices, in their order.

        Args:
            indices: int (B,).
            mirrored: bool (B,), which of them are to be those of the mirrored images.

        Returns:
            (B, h, w, 2c), in the dtype of the files.
        """
        parts, rows = np.divmod(self._places[indices], self.facts.shard)
        forms = np.zeros(len(rows), int) if mirrored is None else mirrored.astype(int)
        found = np.empty((len(rows), *self.facts.shape), self.facts.dtype)
        for part in np.unique(parts):
            here = np.flatnonzero(parts == part)
            here = here[np.argsort(rows[here])]  # in the order in which they lie on the disk
            found[here] = self._parts[part][rows[here], forms[here]]
        return found

    def subset(self, indices: Iterable[int]) -> "LatentFiles":
        """The posteriors of these indices, in their order, as another sequence."""
        other = LatentFiles.__new__(LatentFiles)
        vars(other).update(vars(self), _places=self._places[np.asarray(indices)])
        return other

    def checked_flip(self, flip: bool | None) -> bool:
        """Whether to mirror at random; None: where the mirrored images are there.

        Raises:
            ValueError: if it is asked for and they are not.
        """
        if flip and not self.facts.flips:
            raise ValueError(
                f"{self.folder} holds no mirrored images: encode with flips=True, or leave "
                "flip out. Received: flip=True"
            )
        return self.facts.flips if flip is None else bool(flip)


class SizedLatentFiles(LatentFiles):
    """Posteriors of images of several sizes, each read from the folder of its size.

    Args:
        folders: of the sizes, each as `LatentFiles` takes it.

    Attributes:
        image_sizes: (h, w) of the posteriors of each.
        buckets: which of them each image has, ints (N,).

    Raises:
        ValueError: if they do not belong together.
    """

    def __init__(self, folders: Sequence[pathlib.Path]):
        self.parts = [LatentFiles(folder) for folder in folders]
        facts = [part.facts for part in self.parts]
        for name in ("flips", "class_names", "autoencoder", "conditions"):
            if any(getattr(each, name) != getattr(facts[0], name) for each in facts):
                raise ValueError(f"{folders[0].parent}: its folders differ in their {name}")
        self.folder, self.facts = folders[0].parent, _together(facts)
        self.image_shape = facts[0].image_shape
        self.image_sizes = tuple(tuple(each.shape[:2]) for each in facts)
        self.buckets = np.repeat(np.arange(len(facts)), [each.count for each in facts])
        self._places = np.concatenate([np.arange(each.count) for each in facts])

    def read(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> np.ndarray:
        (bucket,) = set(self.buckets[indices])
        return self.parts[bucket].read(self._places[indices], mirrored)

    def subset(self, indices: Iterable[int]) -> "SizedLatentFiles":
        other, chosen = copy.copy(self), np.asarray(indices)
        vars(other).update(_places=self._places[chosen], buckets=self.buckets[chosen])
        return other

    def without_small(self, count: int) -> "SizedLatentFiles":
        """The same; or ValueError, as latents cannot be read at another size."""
        for bucket, held in enumerate(np.bincount(self.buckets)):
            if held < count:
                raise ValueError(
                    f"{self.parts[bucket].folder} has {held} images, fewer than a batch of "
                    f"{count}: give a smaller batch size, or encode without that size"
                )
        return self


def _together(facts):
    """Of several folders what one would say, with the shape of the first."""
    counts = np.array([each.count for each in facts], float)
    means, deviations = (
        np.array([getattr(each, name) for each in facts]) for name in ("mean", "deviation")
    )
    mean = np.average(means, axis=0, weights=counts)
    variance = np.average(deviations**2 + means**2, axis=0, weights=counts) - mean**2
    return dataclasses.replace(
        facts[0],
        count=int(counts.sum()),
        done=int(counts.sum()),
        mean=tuple(mean.tolist()),
        deviation=tuple(np.sqrt(variance).tolist()),
    )


def is_latent_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder of latents."""
    return bool(latent_folders(path))


def latent_folders(path: str | os.PathLike) -> list[pathlib.Path]:
    """A folder of latents, or those for each size in it; none where it is no such folder.

    Example:

    >>> latent_folders("photos")
    []
    """
    path = pathlib.Path(path)
    if (path / FACTS).is_file():
        return [path]
    return sorted(found.parent for found in path.glob(f"*-*x*/{FACTS}"))


def read_latents(folder: str | os.PathLike) -> Contents:
    """The latents of a folder as `cached_latents` takes them, before they are cut into batches."""
    folders = latent_folders(folder)
    if len(folders) < 2:
        return _read_one(folders[0] if folders else folder)
    each = [_read_one(one) for one in folders]
    held = [one.validation for one in each if one.validation is not None]
    found = _joined(each, [one.images.folder for one in each])
    if not held:
        return found
    return found._replace(validation=_joined(held, [one.images.folder for one in held]))


def _joined(parts, folders):
    labels = None if parts[0].labels is None else np.concatenate([one.labels for one in parts])
    known = {}
    for name, value in parts[0].conditions.items():
        values = [one.conditions[name] for one in parts]
        known[name] = tuple(map(Rows, zip(*values))) if isinstance(value, tuple) else Rows(values)
    return Contents(SizedLatentFiles(folders), labels, parts[0].class_names, conditions=known)


def _read_one(folder):
    files, folder = LatentFiles(folder), pathlib.Path(folder)
    labels = None
    if files.facts.class_names is not None:
        labels = checked_labels(_loaded(folder / LABELS), len(files))
    known = {}
    for name, parts in files.facts.conditions.items():
        arrays = tuple(_loaded(path, "r") for path in condition_files(folder, name, parts))
        known[name] = arrays if parts else arrays[0]
    found = Contents(files, labels, files.facts.class_names, conditions=known)
    if not (folder / VALIDATION / FACTS).is_file():
        return found
    return found._replace(validation=_read_one(folder / VALIDATION))


def _loaded(path, mmap_mode=None):
    try:
        return np.load(path, mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} lacks {path.name}") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is corrupt: {error}") from None


def cached_latents(
    folder: str | os.PathLike,
    batch_size: int | None = None,
    *,
    flip: bool | None = None,
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    labels: bool = True,
    drop_remainder: bool = True,
) -> ImageBatches:
    """Batches of the latents in a folder that `keras-dit encode` has written, for `fit`.

    What comes are posteriors, of which the `Autoencoder` of `Diffusion(network, codec=)` draws
    latents in each step, every epoch other ones. Orders, flips and resuming are those of
    `ImageBatches`.

    Args:
        folder: of the latents.
        batch_size: images in a batch; None: 128, or less for fewer than 512 images.
        flip: whether an image is mirrored left to right at random, anew in every epoch; None:
            where the folder has the mirrored images.
        seed: integer for the orders, the flips, the share for validation and the limit.
        validation: share of every class that is kept apart for validation, such as 0.05.
        limit: at most so many images, drawn at random, each class by its share.
        labels: False leaves the classes out, for a network without them.
        drop_remainder: whether the last batch is left out when it is smaller than the others.

    Returns:
        `ImageBatches` of float32 (B, h, w, 2c), the mean and then the log-variance on the channels.
        Its `images.facts` are what the folder says of itself.

    Raises:
        FileNotFoundError: if it is no folder of latents.
        ValueError: if the encoding was stopped before its end, a file is damaged, or on an argument
            out of its range.

    Example:

    ```python
    data = keras_dit.datasets.cached_latents("latents", batch_size=128)
    codec = keras_dit.codecs.Autoencoder.from_preset("ae.keras")
    network = keras_dit.DiTModel(codec.sample_shape(data.input_shape), num_classes=data.num_classes)
    diffusion = keras_dit.Diffusion(network, codec=codec)
    diffusion.compile()
    diffusion.fit(data, epochs=10)
    ```
    """
    found = read_latents(folder)
    flip = found.images.checked_flip(flip)
    if not labels:
        found = found.without_labels()
    found = divide(limited(found, limit, seed), validation, seed)
    return batches_of(found, batch_size, flip=flip, seed=seed, drop_remainder=drop_remainder)
