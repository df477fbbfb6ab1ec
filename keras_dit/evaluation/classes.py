"""The Inception score, in numpy float64: how sure a classifier is of each image, and how various.

    IS = exp( E_x KL( p(y|x) ‖ p(y) ) ),      p(y) = E_x p(y|x)                              (1)
       = exp( E_x Σ_y p(y|x) log p(y|x)  −  Σ_y p(y) log p(y) )                              (2)

where (2) needs two sums only, so that images come batch by batch. The set is cut into splits of
consecutive images and the mean and standard deviation over them are reported.

Reference: Salimans et al., Improved Techniques for Training GANs (2016).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ClassSums", "Spread", "inception_score"]


class Spread(NamedTuple):
    """A score that is a mean over parts of a set, with the standard deviation over them."""

    mean: float
    std: float | None


class ClassSums:
    """The sums of equation (2), of images that come batch by batch in the order of the set.

    Args:
        classes: C, how many logits an image has.
        total: images of the whole set.
        splits: parts of the set.

    Attributes:
        count: images so far.
    """

    def __init__(self, classes: int, total: int, splits: int = 10):
        if not 1 <= splits <= total:
            raise ValueError(
                "splits must be 1 or more, and at most the number of images. "
                f"Received: splits={splits}, {total} images"
            )
        self.total, self.count = total, 0
        self._probabilities = np.zeros((splits, classes))
        self._negative_entropies = np.zeros(splits)

    def _bounds(self):
        """Where each split begins, and the last one ends."""
        splits = len(self._negative_entropies)
        return np.array([i * self.total // splits for i in range(splits + 1)])

    def add(self, logits: Any) -> None:
        """Take in the next images, logits (B, C).

        Raises:
            ValueError: for logits of another shape, that are not finite, or more than `total`.
        """
        logits = np.asarray(logits, "float64")
        classes = self._probabilities.shape[1]
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ValueError(
                f"logits must be of shape (N, {classes}). Received: shape={logits.shape}"
            )
        if not np.isfinite(logits).all():
            raise ValueError("logits must be finite. Received: NaN or infinite values")
        if self.count + len(logits) > self.total:
            raise ValueError(f"there are more images than the {self.total} that were expected")
        shifted = logits - logits.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(logs)
        places = np.arange(self.count, self.count + len(logits))
        split = np.searchsorted(self._bounds(), places, side="right") - 1
        for i in np.unique(split):
            self._probabilities[i] += p[split == i].sum(axis=0)
            self._negative_entropies[i] += np.sum(p[split == i] * logs[split == i])
        self.count += len(logits)

    @property
    def score(self) -> Spread:
        """The Inception score.

        Raises:
            ValueError: if images are missing.
        """
        if self.count < self.total:
            raise ValueError(f"there are {self.count} of {self.total} images")
        sizes = np.diff(self._bounds())
        q = self._probabilities / sizes[:, None]
        surprise = np.sum(q * np.log(np.where(q > 0, q, 1.0)), axis=1)  # 0 log 0 = 0
        scores = np.exp(self._negative_entropies / sizes - surprise)  # (2)
        return Spread(float(scores.mean()), float(scores.std()))

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restored` takes, as numpy arrays by name."""
        return {
            "counts": np.array([self.total, self.count]),
            "probabilities": self._probabilities,
            "negative_entropies": self._negative_entropies,
        }

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray]) -> "ClassSums":
        """The sums of which these are the `arrays`."""
        total, count = map(int, arrays["counts"])
        splits, classes = arrays["probabilities"].shape
        sums = cls(classes, total, splits)
        sums.count = count
        sums._probabilities = np.array(arrays["probabilities"])
        sums._negative_entropies = np.array(arrays["negative_entropies"])
        return sums


def inception_score(logits: Any, splits: int = 10) -> Spread:
    """The Inception score of images by their logits, at best as large as there are classes.

    Of Inception's logits it is the published score, as torch-fidelity and the evaluator of ADM
    have it, which leave out the bias of the last layer (`logits_unbiased`). Images are taken in
    their order: torch-fidelity shuffles them first, unless `samples_shuffle=False`.

    Args:
        logits: (N, C) numbers.
        splits: parts of the set, of consecutive images.

    Returns:
        (mean, std) over the splits.

    Raises:
        ValueError: for another shape, numbers that are not finite, or fewer images than splits.

    Example:

    >>> inception_score(1e3 * np.eye(4), splits=1).mean  # sure of each, and all classes there
    4.0

    Reference: Salimans et al., 2016; see the head of this module.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits must be of shape (N, C). Received: shape={logits.shape}")
    sums = ClassSums(logits.shape[1], len(logits), splits)
    sums.add(logits)
    return sums.score
