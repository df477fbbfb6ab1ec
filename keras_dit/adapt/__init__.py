"""A trained network changed afterwards: for other data, smaller, or by adapters."""

from keras_dit.adapt.freezing import freeze, unfreeze
from keras_dit.adapt.resize import resize

__all__ = ["freeze", "resize", "unfreeze"]
