"""What is drawn at random for the data, on the host and the same everywhere.

Numpy's Philox (Salmon et al.: Parallel Random Numbers: As Easy as 1, 2, 3, 2011) is keyed by
(seed, epoch), so that every draw is a pure function of them. Only its raw words are used: numpy
may change its distributions between versions, but not these.
"""

import functools

import numpy as np

_ORDER, _FLIPS = 0, 1  # the streams of one epoch


def checked_seed(seed):
    """The seed as an int, or ValueError."""
    if isinstance(seed, bool) or seed != int(seed) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer in 0..2**64-1. Received: seed={seed}")
    return int(seed)


def _words(count, seed, epoch, stream):
    key = np.array([seed, epoch], "uint64")
    counter = np.array([0, 0, 0, stream], "uint64")
    return np.random.Philox(key=key, counter=counter).random_raw(count)


# Every batch of an epoch asks for these again; a million numbers take a tenth of a second to sort.
@functools.lru_cache(maxsize=8)
def permutation(count, seed, epoch):
    """A random order of count samples, read-only int64 (count,)."""
    order = np.argsort(_words(count, seed, epoch, _ORDER), kind="stable")
    order.flags.writeable = False
    return order


@functools.lru_cache(maxsize=8)
def flips(count, seed, epoch):
    """A fair coin for each of count samples, read-only bool (count,)."""
    coins = _words(count, seed, epoch, _FLIPS) >= 2**63
    coins.flags.writeable = False
    return coins
