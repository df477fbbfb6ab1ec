"""Images <-> what the network sees."""

from keras_dit.codecs.base import Codec
from keras_dit.codecs.pixels import Latents, Pixels

__all__ = ["Codec", "Latents", "Pixels"]
