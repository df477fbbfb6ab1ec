"""The public name of `keras_dit.sampling`: what runs a denoiser from noise to data."""

from keras_dit.sampling import *  # noqa: F403
from keras_dit.sampling import __all__  # noqa: F401
