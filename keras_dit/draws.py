"""What is drawn at random on the host, the same on every backend and machine.

Numpy's Philox (Salmon et al.: Parallel Random Numbers: As Easy as 1, 2, 3, 2011) is keyed by
(seed, index), so that every draw is a pure function of them. Orders and flips use its raw words
alone: numpy may change its distributions between versions, but not these.
"""

import functools

import numpy as np

__all__ = ["checked_seed", "flips", "generator", "permutation", "words"]

_ORDER, _FLIPS = 0, 1  # the streams of one epoch


def checked_seed(seed: int) -> int:
    """The seed as an int.

    Raises:
        ValueError: if it is not an integer in 0 … 2**64 - 1.

    Example:

    >>> checked_seed(7)
    7
    """
    integer = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not integer or not 0 <= seed < 2**64:
        raise ValueError(
            f"seed must be an integer of 0 or more, below 2**64. Received: seed={seed!r}"
        )
    return int(seed)


def _philox(seed, index, stream):
    key = np.array([seed, index], "uint64")
    counter = np.array([0, 0, 0, stream], "uint64")
    return np.random.Philox(key=key, counter=counter)


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """A generator of its own for each (seed, index, stream).

    Args:
        seed: integer in 0 … 2**64 - 1.
        index: what is drawn for, such as a sample's number within its run.
        stream: tells apart what is drawn for the same index.

    Example:

    >>> bool(generator(0, 3).random() == generator(0, 3).random())
    True
    """
    return np.random.Generator(_philox(seed, index, stream))


def words(seed: int, index: int, count: int, stream: int = 0) -> list[int]:
    """So many random integers in 0 … 2**64 − 1 for (seed, index, stream).

    Example:

    >>> len(words(0, 3, count=2))
    2
    """
    # Beside the streams of epochs, which would give the same words for the same numbers.
    return list(map(int, _philox(seed, index, 16 + stream).random_raw(count)))


# Every batch of an epoch asks for these again; a million numbers take a tenth of a second to sort.
@functools.lru_cache(maxsize=8)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of count samples, read-only int64 (count,).

    Example:

    >>> sorted(permutation(4, seed=0, epoch=2).tolist())
    [0, 1, 2, 3]
    """
    order = np.argsort(_philox(seed, epoch, _ORDER).random_raw(count), kind="stable")
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=8)
def flips(count: int, seed: int, epoch: int) -> np.ndarray:
    """A fair coin for each of count samples, read-only bool (count,).

    Example:

    >>> flips(3, seed=0, epoch=0).shape
    (3,)
    """
    coins = _philox(seed, epoch, _FLIPS).random_raw(count) >= 2**63
    coins.flags.writeable = False
    return coins
