"""The public name of the step caches, `keras_dit.sampling.caching`."""

from keras_dit.sampling.caching import *  # noqa: F403
from keras_dit.sampling.caching import __all__  # noqa: F401
