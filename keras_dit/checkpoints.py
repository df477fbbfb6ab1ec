"""The public name of `keras_dit.training.checkpoints`."""

from keras_dit.training.checkpoints import *  # noqa: F403
from keras_dit.training.checkpoints import __all__  # noqa: F401
