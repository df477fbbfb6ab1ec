"""Precision and recall of generated images by their neighbours among features, in numpy float64.

A set is taken for the union of balls, one around each of its samples, that reach to the sample's
k-th nearest neighbour in the set. Precision is the share of generated images within the balls of
the real ones, recall the share of real images within the balls of the generated ones.

Reference: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative
Models (2019).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_dit.evaluation.scores import flat_features

__all__ = ["PrecisionRecall", "precision_recall"]

CHUNK_ELEMENTS = 2**22  # distances held at once: 32 MiB


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1: of generated images that look real, and of real ones that are reached."""

    precision: float
    recall: float


def _squares(points, others) -> Iterator[np.ndarray]:
    """‖p − o‖² of some points at a time to all others, (rows, N), in bounded memory."""
    norms = np.einsum("nd,nd->n", others, others)
    rows = max(1, CHUNK_ELEMENTS // len(others))
    for i in range(0, len(points), rows):
        part = points[i : i + rows]
        squares = part @ others.T
        squares *= -2
        squares += np.einsum("nd,nd->n", part, part)[:, None]
        squares += norms
        yield np.maximum(squares, 0.0, out=squares)


def _radii(points, k):
    """The squared distance of each point to its k-th neighbour, itself not counted, (N,)."""
    parts = []
    for squares in _squares(points, points):
        squares.partition(k, axis=1)
        parts.append(squares[:, k].copy())  # a view would keep all distances
    return np.concatenate(parts)


def _share_within(points, centres, radii):
    """The share of points within a ball around any of the centres."""
    inside = [(squares <= radii).any(axis=1) for squares in _squares(points, centres)]
    return float(np.concatenate(inside).mean())


def precision_recall(real: Any, generated: Any, k: int = 3) -> PrecisionRecall:
    """How much of what is generated looks real, and how much of what is real is generated.

    Both depend on the number of images: compare sets of equal sizes, usual are 10 000 each.

    Args:
        real, generated: (N, ...) numbers, such as Inception's "pool"; flattened to (N, D).
        k: the neighbour to which a ball reaches.

    Returns:
        (precision, recall).

    Raises:
        ValueError: on shapes that do not agree, numbers that are not finite, or k or fewer images.

    Example:

    >>> line = np.arange(10.0)[:, None]
    >>> precision_recall(real=line, generated=line[:5], k=3)
    PrecisionRecall(precision=1.0, recall=0.8)

    Reference: Kynkäänniemi et al., 2019; see the head of this module.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more. Received: k={k}")
    real = flat_features("real", real, k + 1)
    generated = flat_features("generated", generated, k + 1)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            "real and generated must have as many dimensions. "
            f"Received: {real.shape[1]}, {generated.shape[1]}"
        )
    # Distances do not change with the origin; near the mean, less is lost to cancellation.
    centre = real.mean(axis=0)
    real, generated = real - centre, generated - centre
    return PrecisionRecall(
        _share_within(generated, real, _radii(real, k)),
        _share_within(real, generated, _radii(generated, k)),
    )
