"""A trained network for other data. Its public name is `keras_dit.adapt.resize`."""

from keras_dit.networks.resizing.configuring import DATA
from keras_dit.networks.resizing.resize import resize

__all__ = ["DATA", "resize"]
