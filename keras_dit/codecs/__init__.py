"""Images <-> what the network sees."""

from keras_dit.codecs.autoencoder import Autoencoder
from keras_dit.codecs.autoencoder_kl import AutoencoderKL
from keras_dit.codecs.autoencoder_tiny import AutoencoderTiny
from keras_dit.codecs.base import Codec
from keras_dit.codecs.caching import cache_latents
from keras_dit.codecs.pixels import Latents, Pixels
from keras_dit.codecs.trainer import AutoencoderTrainer, measured, reconstructed

__all__ = [
    "Autoencoder",
    "AutoencoderKL",
    "AutoencoderTiny",
    "AutoencoderTrainer",
    "Codec",
    "Latents",
    "Pixels",
    "cache_latents",
    "measured",
    "reconstructed",
]
