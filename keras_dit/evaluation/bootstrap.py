"""How far a score would move with other images of the same kind: intervals by the bootstrap.

The images are drawn anew, with repetition, and the score of the drawn is the replicate. A score
that is biased by few images, such as the Fréchet distance, is more so where images repeat, so the
replicates are moved until their mean is the score: the interval says how sure a score is at this
number of images, not how far it is from that of infinitely many.

Reference: Efron, Bootstrap Methods: Another Look at the Jackknife (1979).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_dit import draws

__all__ = ["Interval", "confidence_interval"]


class Interval(NamedTuple):
    """Where a score lies with some confidence."""

    low: float
    high: float


def confidence_interval(
    score: Callable,
    *samples: Any,
    rounds: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of a score under the drawing of its images.

    Args:
        score: (*samples) -> a number, such as `frechet_distance`.
        *samples: arrays (N, ...); each is drawn anew in each round, apart from the others.
        rounds: how often all is drawn.
        level: the share of replicates within the interval.
        seed: integer of 0 or more.

    Returns:
        (low, high).

    Raises:
        ValueError: for a number out of its range, or a sample of no images.

    Example:

    >>> interval = confidence_interval(np.mean, np.arange(100.0), rounds=200)
    >>> bool(interval.low < 49.5 < interval.high)
    True
    """
    if rounds < 2 or not 0 < level < 1:
        raise ValueError(
            "rounds must be 2 or more, and level between 0 and 1. "
            f"Received: rounds={rounds}, level={level}"
        )
    samples = tuple(map(np.asarray, samples))
    if not samples or min(map(len, samples)) == 0:
        raise ValueError("there must be samples to draw from, of one image or more each")
    replicates = []
    for i in range(rounds):
        generator = draws.generator(seed, i)
        drawn = (sample[generator.integers(0, len(sample), len(sample))] for sample in samples)
        replicates.append(score(*drawn))
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail)) - np.mean(replicates)
    middle = score(*samples)
    return Interval(float(middle + low), float(middle + high))
