"""Training: the average of the weights, steps that are left out, checkpoints."""

from keras_dit.training.average import WeightAverage

__all__ = ["WeightAverage"]
