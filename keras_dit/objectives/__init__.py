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
    Weighting,
)

__all__ = [
    "Batch",
    "EqualWeighting",
    "ErrorAndDirection",
    "Hybrid",
    "LogitNormalTimes",
    "MeanSquaredError",
    "MinSNR",
    "Objective",
    "TimeDistribution",
    "UniformTimes",
    "Weighting",
]
