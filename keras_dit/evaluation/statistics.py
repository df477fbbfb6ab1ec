"""What is kept of a set of images: enough for every score, whatever the number of images."""

from collections.abc import Mapping

import numpy as np

from keras_dit.evaluation.classes import ClassSums
from keras_dit.evaluation.moments import Moments

__all__ = ["Statistics"]

MOMENTS = ("pool", "spatial")


class Statistics:
    """The features of a set of images, summed up as they come in the order of the set.

    Moments and the sums of the Inception score take in every image. What is made of neighbours,
    kernels and intervals needs features themselves, of which the first `keep` are kept.

    Args:
        total: images of the whole set.
        keep: features kept, at most; 10 000 are usual for precision and recall.
        splits: of the Inception score; fewer where there are fewer images.

    Attributes:
        count: images so far.
        moments: of each kind of features, "pool" and perhaps "spatial".
        features: "pool" of the first images, float32 (n, D).

    Example:

    >>> statistics = Statistics(total=3)
    >>> statistics.add({"pool": np.array([[0.0], [2.0]])})
    >>> statistics.add({"pool": np.array([[4.0]])})
    >>> statistics.count, float(statistics.moments["pool"].mean[0])
    (3, 2.0)
    """

    def __init__(self, total: int, keep: int = 10_000, splits: int = 10):
        self.total, self.keep, self.splits = total, keep, splits
        self.count = 0
        self.moments: dict[str, Moments] = {}
        self.classes: ClassSums | None = None
        self._features: np.ndarray | None = None
        self._kept = 0

    def add(self, features: Mapping[str, np.ndarray]) -> None:
        """Take in the next images.

        Args:
            features: of a batch, arrays (B, ...) by name, as a feature extractor gives them.

        Raises:
            ValueError: for features of another size than those before, or that are not finite.
        """
        pool = features["pool"].reshape(len(features["pool"]), -1)
        for name in MOMENTS:
            if name in features:
                size = int(np.prod(features[name].shape[1:]))
                self.moments.setdefault(name, Moments(size)).add(features[name])
        logits = features.get("logits_unbiased", features.get("logits"))
        if logits is not None:
            if self.classes is None:
                splits = max(1, min(self.splits, self.total))
                self.classes = ClassSums(logits.shape[1], self.total, splits)
            self.classes.add(logits)
        self._keep(pool)
        self.count += len(pool)

    def _keep(self, pool):
        if self._features is None:
            self._features = np.empty((min(self.keep, self.total), pool.shape[1]), "float32")
        room = pool[: len(self._features) - self._kept]
        self._features[self._kept : self._kept + len(room)] = room
        self._kept += len(room)

    @property
    def features(self) -> np.ndarray:
        """ "pool" of the first images, float32 (n, D)."""
        return (
            np.empty((0, 0), "float32") if self._features is None else self._features[: self._kept]
        )

    # To a file and back, to the last bit

    def arrays(self) -> dict[str, np.ndarray]:
        """What `restored` takes, as numpy arrays by name."""
        found = {
            "numbers": np.array([self.total, self.keep, self.splits, self.count]),
            "features": self.features,
        }
        for name, moments in self.moments.items():
            found |= {f"moments/{name}/{key}": value for key, value in moments.arrays().items()}
        if self.classes is not None:
            found |= {f"classes/{key}": value for key, value in self.classes.arrays().items()}
        return found

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray]) -> "Statistics":
        """The statistics of which these are the `arrays`."""

        def under(prefix):
            return {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}

        total, keep, splits, count = map(int, arrays["numbers"])
        found = cls(total, keep, splits)
        for name in MOMENTS:
            if under(f"moments/{name}/"):
                found.moments[name] = Moments.restored(under(f"moments/{name}/"))
        if under("classes/"):
            found.classes = ClassSums.restored(under("classes/"))
        if arrays["features"].size:
            found._keep(arrays["features"])
        found.count = count
        return found
