"""Images of several sizes: which size each is read at, and batches of one size each."""

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["batches", "best_size", "counts"]


def best_size(image: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> int:
    """Which of the sizes shows most of an image: an index.

    Of several that cut off as little the largest for which it need not be made larger, or else the
    smallest, counts.

    Args:
        image: its (H, W).
        sizes: (H, W) of each.

    Example:

    >>> best_size((480, 640), [(64, 64), (48, 64), (64, 48)]), best_size((90, 90), [(64, 64)] * 2)
    (1, 0)
    """

    def rank(index):
        height, width = sizes[index]
        # Of the image covering that size, what is left: 1 where the sides are in proportion.
        down, across = image[0] / height, image[1] / width
        shown, pixels = min(down, across) / max(down, across), height * width
        fits = min(down, across) >= 1
        return (-round(shown, 9), not fits, -pixels if fits else pixels)

    return min(range(len(sizes)), key=rank)


def counts(buckets: np.ndarray, batch_size: int, drop_remainder: bool) -> list[int]:
    """The number of images in each batch of an epoch, size by size.

    Args:
        buckets: (N,) the index of each image's size.
        batch_size: at most so many images of one size.
        drop_remainder: whether smaller batches are left out.

    Example:

    >>> counts(np.array([0, 1, 0, 0, 1]), 2, drop_remainder=False)
    [2, 1, 2]
    """
    found = []
    for count in np.bincount(buckets):
        whole, rest = divmod(int(count), batch_size)
        found += [batch_size] * whole + [rest] * (rest > 0 and not drop_remainder)
    return found


def batches(
    buckets: np.ndarray, order: Iterable[int], batch_size: int, drop_remainder: bool
) -> list[np.ndarray]:
    """The images of each batch of an epoch, each batch of one size, size by size.

    Args:
        buckets, batch_size, drop_remainder: as for `counts`.
        order: (N,) in which those of one size follow each other.

    Example:

    >>> [each.tolist() for each in batches(np.array([0, 1, 0, 0]), np.arange(4), 2, True)]
    [[0, 2]]
    """
    order = np.asarray(order)
    found = []
    for bucket in range(int(buckets.max()) + 1):
        members = order[buckets[order] == bucket]
        cuts = [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
        found += [cut for cut in cuts if len(cut) == batch_size or not drop_remainder]
    return found
