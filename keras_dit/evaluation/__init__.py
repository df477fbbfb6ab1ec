"""How good generated images are."""

from keras_dit.evaluation.bootstrap import Interval, confidence_interval
from keras_dit.evaluation.classes import ClassSums, Spread, inception_score
from keras_dit.evaluation.features import Features, Network, Pixels
from keras_dit.evaluation.inception import Inception
from keras_dit.evaluation.kernels import kernel_distance
from keras_dit.evaluation.moments import Moments
from keras_dit.evaluation.neighbours import PrecisionRecall, precision_recall
from keras_dit.evaluation.scores import (
    frechet_distance,
    frechet_distance_from_moments,
    label_agreement,
)

__all__ = [
    "ClassSums",
    "Features",
    "Inception",
    "Interval",
    "Moments",
    "Network",
    "Pixels",
    "PrecisionRecall",
    "Spread",
    "confidence_interval",
    "frechet_distance",
    "frechet_distance_from_moments",
    "inception_score",
    "kernel_distance",
    "label_agreement",
    "precision_recall",
]
