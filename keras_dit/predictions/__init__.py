"""What a network's output means, and how it becomes E[x0 | x_t]: see `predictions.base`."""

from keras_dit.predictions.base import Denoised, Prediction
from keras_dit.predictions.direct import (
    CleanSample,
    DataVelocity,
    FlooredSample,
    FlowVelocity,
    Noise,
    V,
)
from keras_dit.predictions.wrapped import HalfUnused, LearnedVariance, Preconditioned

__all__ = [
    "CleanSample",
    "DataVelocity",
    "Denoised",
    "FlooredSample",
    "FlowVelocity",
    "HalfUnused",
    "LearnedVariance",
    "Noise",
    "Preconditioned",
    "Prediction",
    "V",
]
