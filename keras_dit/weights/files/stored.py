"""A tensor in a file: what it is, known at once, and its numbers, read when they are asked for."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Stored(NamedTuple):
    """A tensor of a file.

    Attributes:
        shape: tuple of ints.
        read: () -> numpy array of that shape; each call reads the file again.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def joined(parts: Sequence[Stored]) -> Stored:
    """Tensors one above the other, along their first axis, as one."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Stored(shape, lambda: np.concatenate([part.read() for part in parts]))


def some(names: Iterable[Any], most: int = 3) -> str:
    """The first of some names, for a message: "a, b, c and 4 more"."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
