"""The scores of a set of images beside a reference, by name.

a score        statistics of the images, statistics of the reference -> a number
a better one   a function and a line in `MEASURES`
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_dit.evaluation import bootstrap
from keras_dit.evaluation.classes import Spread
from keras_dit.evaluation.features import Features
from keras_dit.evaluation.kernels import kernel_distance
from keras_dit.evaluation.neighbours import precision_recall
from keras_dit.evaluation.scores import frechet_distance_from_moments
from keras_dit.evaluation.statistics import Statistics
from keras_dit.registry import Registry

__all__ = ["MEASURES", "Measure", "Score", "interval", "key_of", "measured", "names"]

SUBSETS, SUBSET_SIZE, NEIGHBOUR = 100, 1000, 3


class Score(NamedTuple):
    """A number of a report.

    Attributes:
        name: such as "FID", or "Frechet distance of pixels".
        value: the number.
        better: "lower" or "higher".
        std: over parts of the set, None where there are none.
        interval: (low, high) of 95 percent by the bootstrap, None where it was not asked for.
    """

    name: str
    value: float
    better: str
    std: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        """The name as a key of JSON or a column: "frechet_distance_of_pixels"."""
        return key_of(self.name)


def key_of(name: str) -> str:
    """The name of a score as a key.

    Example:

    >>> key_of("Frechet distance of pixels")
    'frechet_distance_of_pixels'
    """
    return name.lower().replace(" ", "_")


class Measure(NamedTuple):
    """How scores are made.

    Attributes:
        function: (images, reference), both `Statistics` -> a tuple of numbers or `Spread`s, or
            None where these features or this reference do not have what it takes.
        published: what the numbers are called where the features are Inception's.
        plain: what they are called else, before the name of the features.
        better: "lower" or "higher".
    """

    function: Callable
    published: tuple[str, ...]
    plain: tuple[str, ...]
    better: str


def _frechet(kind):
    def distance(images, reference):
        if kind not in images.moments or kind not in reference.moments:
            return None
        a, b = images.moments[kind], reference.moments[kind]
        return (frechet_distance_from_moments(a.mean, a.covariance, b.mean, b.covariance),)

    return distance


def _classes(images, reference):
    return None if images.classes is None else (images.classes.score,)


def _kernel(images, reference):
    size = min(SUBSET_SIZE, len(images.features), len(reference.features))
    if size < 2:
        return None
    return (kernel_distance(images.features, reference.features, SUBSETS, size),)


def _neighbours(images, reference):
    if min(len(images.features), len(reference.features)) <= NEIGHBOUR:
        return None
    return precision_recall(reference.features, images.features, NEIGHBOUR)


MEASURES: Registry = Registry(
    "score",
    {
        "frechet": Measure(_frechet("pool"), ("FID",), ("Frechet distance",), "lower"),
        "spatial": Measure(_frechet("spatial"), ("sFID",), ("spatial Frechet distance",), "lower"),
        "classes": Measure(_classes, ("Inception score",), ("class score",), "higher"),
        "kernel": Measure(_kernel, ("KID",), ("kernel distance",), "lower"),
        "neighbours": Measure(
            _neighbours, ("precision", "recall"), ("precision", "recall"), "higher"
        ),
    },
)


def names(measure: Measure, features: Features) -> tuple[str, ...]:
    """What the numbers of a measure are called where they are of these features."""
    if features.published:
        return measure.published
    return tuple(f"{name} of {features.name}" for name in measure.plain)


def measured(images: Statistics, reference: Statistics, features: Features) -> list[Score]:
    """Every score that can be had.

    Args:
        images: statistics of what is scored.
        reference: statistics of real images.
        features: what both were made with, whose name the scores bear.

    Raises:
        ValueError: for statistics of features of different sizes, or of a single image.
    """
    scores = []
    for measure in MEASURES.values():
        values = measure.function(images, reference) or ()
        for name, value in zip(names(measure, features), values):
            spread = value if isinstance(value, Spread) else Spread(float(value), None)
            scores.append(Score(name, spread.mean, measure.better, spread.std))
    return scores


def interval(images: Statistics, reference: Statistics, rounds: int) -> Any:
    """The interval of the Fréchet distance under the drawing of the images; the reference stays.

    Args:
        images: statistics that keep the features of every image.
        reference: of real images.
        rounds: of the bootstrap.

    Raises:
        ValueError: if not all features were kept.
    """
    if len(images.features) < images.count:
        raise ValueError(
            f"an interval takes the features of all {images.count} images, of which "
            f"{len(images.features)} were kept: keep more"
        )
    real = reference.moments["pool"]

    def distance(features):
        covariance = np.atleast_2d(np.cov(features, rowvar=False))
        return frechet_distance_from_moments(
            features.mean(axis=0), covariance, real.mean, real.covariance
        )

    return bootstrap.confidence_interval(distance, images.features.astype("float64"), rounds=rounds)
