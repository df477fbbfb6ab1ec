"""What training minimises: a family of losses in a file, and the names of all of them here."""

from keras_dit.objectives.base import (
    Batch,
    EqualWeighting,
    ErrorAndDirection,
    Hybrid,
    LogitNormalTimes,
    MeanSquaredError,
    MinSNR,
    Objective,
    TimeDistribution,
    UniformTimes,
    VelocityWeighting,
    Weighting,
)
from keras_dit.objectives.consistency import Consistency, TimeGap
from keras_dit.objectives.distillation import (
    Distillation,
    Hidden,
    Teacher,
    TokenDirections,
    TokenRelations,
)

__all__ = [
    "Batch",
    "Consistency",
    "Distillation",
    "EqualWeighting",
    "ErrorAndDirection",
    "Hidden",
    "Hybrid",
    "LogitNormalTimes",
    "MeanSquaredError",
    "MinSNR",
    "Objective",
    "Teacher",
    "TimeDistribution",
    "TimeGap",
    "TokenDirections",
    "TokenRelations",
    "UniformTimes",
    "VelocityWeighting",
    "Weighting",
]
