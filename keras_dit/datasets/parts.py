"""What a data set holds before it is cut into batches, and parts of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from keras_dit.draws import checked_seed, permutation

__all__ = ["Contents", "Rows", "checked_conditions", "checked_labels", "divide", "limited",
           "part_of", "split", "split_indices", "taken"]  # fmt: skip


class Contents(NamedTuple):
    """What a source of data holds.

    images: sequence with a shape (N, H, W, C). labels: int32 (N,), or None. class_names: of the
    labels 0, 1, ..., or None. value_range: (low, high) of the pixels, None for what
    `ImageBatches` takes without being told. validation: the `Contents` kept apart for it, or None.
    notes: what there is to say about how the source was understood and what was left out.
    conditions: what else is known of each image, as for `ImageBatches`.
    """

    images: Any
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    validation: "Contents | None" = None
    notes: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = MappingProxyType({})

    def take(self, indices: np.ndarray) -> "Contents":
        """The images of these indices, in their order. Of an array it is a copy."""
        take = getattr(self.images, "subset", self.images.__getitem__)
        labels = None if self.labels is None else self.labels[indices]
        others = {name: taken(values, indices) for name, values in self.conditions.items()}
        return self._replace(images=take(indices), labels=labels, conditions=others)

    def without_labels(self) -> "Contents":
        """The same images without their classes."""
        validation = self.validation and self.validation.without_labels()
        return self._replace(labels=None, class_names=None, validation=validation)

    @property
    def groups(self) -> np.ndarray:
        """The labels, or the label 0 for every image where there are none."""
        return np.zeros(len(self.images), int) if self.labels is None else self.labels


def taken(values: Any, indices: Any) -> Any:
    """Those of a condition's values, in this order.

    Args:
        values: an array (N, ...), a tuple of such arrays, or a list of N values.
        indices: ints (n,).

    Example:

    >>> taken((np.arange(4), np.arange(8).reshape(4, 2)), [3, 0])[1].tolist()
    [[6, 7], [0, 1]]
    """
    if isinstance(values, tuple):
        parts = [taken(part, indices) for part in values]
        return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)
    if hasattr(values, "shape"):
        return values[np.asarray(indices, int)]
    return [values[index] for index in indices]


class Rows:
    """Arrays one after the other as one, of which rows are read when they are asked for.

    Args:
        arrays: of the same shape but for their number of rows.

    Example:

    >>> Rows([np.arange(3), np.arange(5, 8)])[[4, 0]].tolist()
    [6, 0]
    """

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = list(arrays)
        self.ends = np.cumsum([len(array) for array in self.arrays])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all."""
        return (int(self.ends[-1]), *self.arrays[0].shape[1:])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, indices: Any) -> np.ndarray:
        indices = np.asarray(indices)
        of = np.searchsorted(self.ends, indices, side="right")
        found = np.empty((len(indices), *self.shape[1:]), self.arrays[0].dtype)
        for number in np.unique(of):
            here = of == number
            begin = self.ends[number] - len(self.arrays[number])
            found[here] = self.arrays[number][indices[here] - begin]
        return found


def checked_conditions(conditions: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The conditions as a dict, or ValueError unless each has a value for each image."""
    for name, values in conditions.items():
        lengths = {len(part) for part in (values if isinstance(values, tuple) else (values,))}
        if lengths != {count} or name == "label":
            raise ValueError(
                f"conditions must be {count} values by name, one for each image, beside the "
                f"labels. Received: {name}, of the lengths {sorted(lengths)}"
            )
    return dict(conditions)


def checked_labels(labels: Any, count: int) -> np.ndarray:
    """The labels as int32 (count,), or ValueError. A column of them, (count, 1), is taken too."""
    labels = np.asarray(labels)
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(
            f"labels must be of shape ({count},), one for each image. "
            f"Received: shape={labels.shape}"
        )
    if labels.dtype.kind not in "iu" or (count and labels.min() < 0):
        raise ValueError(
            "labels must be integers of at least 0. Received: "
            f"dtype={labels.dtype}, minimum={labels.min() if count else None}"
        )
    return labels.astype("int32")


def split_indices(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the two parts, each in random order, with the same share of every class."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1. Received: fraction={fraction}")
    order = permutation(len(labels), checked_seed(seed), 0)
    chosen = np.zeros(len(labels), bool)
    for members in _by_class(labels, order):
        cut = int(fraction * len(members) + 0.5)
        if len(members) > 1:  # then the class is in both parts
            cut = min(max(cut, 1), len(members) - 1)
        chosen[members[:cut]] = True
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"fraction leaves one part empty. Received: fraction={fraction}, {len(labels)} images"
        )
    return order[chosen[order]], order[~chosen[order]]


def _by_class(labels, order):
    """The indices of each class, in the given order of all."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)


def split(
    images: np.ndarray, labels: np.ndarray, fraction: float = 0.5, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Split a data set in two, shuffled, with the same share of every class in both.

    Args:
        images: array (N, ...).
        labels: (N,) integers. A class of two or more images is in both parts.
        fraction: share of the first part, between 0 and 1.
        seed: integer; the same seed gives the same parts everywhere.

    Returns:
        `((images_a, labels_a), (images_b, labels_b))`, the labels int32.

    Raises:
        ValueError: on lengths that differ, an argument out of its range, or an empty part.

    Example:

    >>> import keras_dit
    >>> digits = keras_dit.datasets.load_digits()
    >>> (images, labels), held_back = keras_dit.datasets.split(*digits, fraction=0.9)
    >>> images.shape
    (1618, 8, 8, 1)
    """
    images = np.asarray(images)
    labels = checked_labels(labels, len(images))
    first, second = split_indices(labels, fraction, seed)
    return (images[first], labels[first]), (images[second], labels[second])


def limited(contents: Contents, count: int | None, seed: int) -> Contents:
    """At most so many of the images, drawn at random, each class by its share.

    Raises:
        ValueError: if count is not an integer of 1 or more.
    """
    if count is None:
        return contents
    if count != int(count) or count < 1:
        raise ValueError(f"limit must be an integer of at least 1. Received: limit={count}")
    place = np.empty(len(contents.images))
    order = permutation(len(place), checked_seed(seed), 0)
    for members in _by_class(contents.groups, order):
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return contents.take(np.sort(np.argsort(place, kind="stable")[:count]))


def divide(contents: Contents, fraction: float, seed: int, name: str = "validation") -> Contents:
    """The contents with a share of every class put apart for validation.

    Raises:
        ValueError: if the share is not in [0, 1), leaves a part empty, or comes on top of
            validation data that the source has of its own.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"{name} must be at least 0 and below 1. Received: {name}={fraction}")
    if not fraction:
        return contents
    if contents.validation is not None:
        raise ValueError(
            "the data has validation images of its own: leave the share for validation out. "
            f"Received: {name}={fraction}"
        )
    train, rest = split_indices(contents.groups, 1 - fraction, seed)
    return contents.take(train)._replace(validation=contents.take(rest))


def part_of(batch: Any, part: tuple[int, int]) -> Any:
    """One of so many equal parts of a batch's rows.

    Args:
        batch: sequence of rows that can be sliced.
        part: (place, count) of the part.

    Example:

    >>> part_of([3, 1, 2, 0], (1, 2))
    [2, 0]
    """
    place, count = part
    size = len(batch) // count
    return batch[place * size : (place + 1) * size] if count > 1 else batch
