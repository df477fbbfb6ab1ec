"""Training and sampling as one Keras model."""

from keras_dit.diffusion.average import WeightAverage
from keras_dit.diffusion.model import Diffusion

__all__ = ["Diffusion", "WeightAverage"]
