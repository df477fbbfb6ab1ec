"""Mean and covariance of features that come batch by batch, in float64.

Of two sets of n_a and n_b samples with means m_a, m_b and scatters S = Σ (x − m)(x − m)ᵀ the union
has (Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances, 1979), with n = n_a + n_b and δ = m_b − m_a,

    m = m_a + δ n_b / n                                                                     (1)
    S = S_a + S_b + δ δᵀ n_a n_b / n                                                        (2)

which loses nothing to cancellation, where Σ x xᵀ − n m mᵀ would.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Moments"]


class Moments:
    """The number, mean and covariance of samples that are never all in memory.

    Args:
        dimensions: D, of a sample.

    Attributes:
        count: samples so far; 0 for moments that were `given`, whose number nobody wrote down.
        mean: (D,) float64.

    Example:

    >>> moments = Moments(2)
    >>> moments.add(np.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> moments.add(np.array([[4.0, 4.0]]))
    >>> moments.count, moments.mean.tolist(), moments.covariance.tolist()
    (3, [2.0, 2.0], [[4.0, 3.0], [3.0, 3.0]])
    """

    def __init__(self, dimensions: int):
        self.count = 0
        self.mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))
        self._given: np.ndarray | None = None

    @classmethod
    def given(cls, mean: Any, covariance: Any) -> "Moments":
        """Moments that somebody else computed, such as those of a published statistics file.

        Raises:
            ValueError: if they are not of shapes (D,) and (D, D).
        """
        mean, covariance = np.asarray(mean, "float64"), np.asarray(covariance, "float64")
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise ValueError(
                "mean must be of shape (D,) and covariance of shape (D, D). "
                f"Received: {mean.shape}, {covariance.shape}"
            )
        moments = cls(0)
        moments.mean, moments._given = mean, covariance
        return moments

    @property
    def dimensions(self) -> int:
        """D, of a sample."""
        return self.mean.size

    def add(self, batch: Any) -> None:
        """Take in more samples.

        Args:
            batch: (B, ...) numbers, B of 0 or more; each sample is flattened to (D,).

        Raises:
            ValueError: for samples of another size, or that are not finite.
        """
        batch = np.asarray(batch)
        if len(batch) == 0:
            return
        flat = batch.reshape(len(batch), -1).astype("float64")
        if flat.shape[1] != self.dimensions:
            raise ValueError(
                f"batch must be of samples with {self.dimensions} dimensions. "
                f"Received: shape={batch.shape}"
            )
        if not np.isfinite(flat).all():
            raise ValueError("batch must be finite. Received: NaN or infinite values")
        mean = flat.mean(axis=0)
        centred = flat - mean
        self._join(len(flat), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> None:
        """Take in the samples of other moments.

        Raises:
            ValueError: for moments of another size, or such as were `given`.
        """
        if other.dimensions != self.dimensions or self._given is not None:
            raise ValueError(
                "only moments of as many dimensions that were added up can be merged. "
                f"Received: {other.dimensions} and {self.dimensions} dimensions"
            )
        if other._given is not None:
            raise ValueError("moments that were given cannot be merged: their number is not known")
        self._join(other.count, other.mean, other._scatter)

    def _join(self, count, mean, scatter):
        if count == 0:
            return
        total, delta = self.count + count, mean - self.mean
        self._scatter += scatter
        self._scatter += np.outer(delta, delta) * (self.count * count / total)  # (2)
        self.mean = self.mean + delta * (count / total)  # (1)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, unbiased: of n samples the scatter over n − 1.

        Raises:
            ValueError: of fewer than two samples.
        """
        if self._given is not None:
            return self._given
        if self.count < 2:
            raise ValueError(
                "a covariance takes two samples or more: one image has none. "
                f"Received: {self.count}"
            )
        return self._scatter / (self.count - 1)

    # To a file and back, to the last bit

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restored` takes, as numpy arrays by name."""
        found = {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter}
        return found if self._given is None else {**found, "given": self._given}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray]) -> "Moments":
        """The moments of which these are the `arrays`."""
        moments = cls(0)
        moments.count, moments.mean = int(arrays["count"]), np.asarray(arrays["mean"])
        moments._scatter, moments._given = np.asarray(arrays["scatter"]), arrays.get("given")
        return moments
