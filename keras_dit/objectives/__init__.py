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
from keras_dit.objectives.meanflow import (
    AdaptiveWeight,
    BackwardDifference,
    ForwardDerivative,
    MeanFlow,
    OwnVelocity,
    RandomGuidance,
    SampleVelocity,
)

__all__ = [
    "AdaptiveWeight",
    "BackwardDifference",
    "Batch",
    "Consistency",
    "Distillation",
    "EqualWeighting",
    "ErrorAndDirection",
    "ForwardDerivative",
    "Hidden",
    "Hybrid",
    "LogitNormalTimes",
    "MeanFlow",
    "MeanSquaredError",
    "MinSNR",
    "Objective",
    "OwnVelocity",
    "RandomGuidance",
    "SampleVelocity",
    "Teacher",
    "TimeDistribution",
    "TimeGap",
    "TokenDirections",
    "TokenRelations",
    "UniformTimes",
    "VelocityWeighting",
    "Weighting",
]
