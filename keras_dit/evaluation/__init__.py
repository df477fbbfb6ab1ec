"""How good generated images are."""

from keras_dit.evaluation.bootstrap import Interval, confidence_interval
from keras_dit.evaluation.callback import Scoring
from keras_dit.evaluation.classes import ClassSums, Spread, inception_score
from keras_dit.evaluation.features import Features, Network, Pixels
from keras_dit.evaluation.inception import Inception
from keras_dit.evaluation.keeping import save_batch
from keras_dit.evaluation.kernels import kernel_distance
from keras_dit.evaluation.measures import MEASURES, Measure, Score
from keras_dit.evaluation.moments import Moments
from keras_dit.evaluation.neighbours import PrecisionRecall, precision_recall
from keras_dit.evaluation.opening import FEATURES, open_features
from keras_dit.evaluation.production import Plan, Stopped, as_bytes
from keras_dit.evaluation.references import Reference, reference
from keras_dit.evaluation.report import Report, compare, evaluate, image_shape
from keras_dit.evaluation.scenes import Verdict, count_scenes, judge_scene
from keras_dit.evaluation.scores import (
    frechet_distance,
    frechet_distance_from_moments,
    label_agreement,
)
from keras_dit.evaluation.statistics import Statistics
from keras_dit.evaluation.told import POLICIES

__all__ = [
    "FEATURES",
    "MEASURES",
    "POLICIES",
    "ClassSums",
    "Features",
    "Inception",
    "Interval",
    "Measure",
    "Moments",
    "Network",
    "Pixels",
    "Plan",
    "PrecisionRecall",
    "Reference",
    "Report",
    "Score",
    "Scoring",
    "Spread",
    "Statistics",
    "Stopped",
    "Verdict",
    "as_bytes",
    "compare",
    "confidence_interval",
    "count_scenes",
    "evaluate",
    "frechet_distance",
    "frechet_distance_from_moments",
    "image_shape",
    "inception_score",
    "judge_scene",
    "kernel_distance",
    "label_agreement",
    "open_features",
    "precision_recall",
    "reference",
    "save_batch",
]
