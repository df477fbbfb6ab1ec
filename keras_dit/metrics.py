"""The public name of the scores, `keras_dit.evaluation.scores`."""

from keras_dit.evaluation.scores import *  # noqa: F403
from keras_dit.evaluation.scores import __all__  # noqa: F401
