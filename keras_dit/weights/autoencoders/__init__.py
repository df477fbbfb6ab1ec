"""Autoencoders from elsewhere: load them, and go back.

format       what it is                                                  its module
compvis      a file of CompVis's latent-diffusion, of Stable Diffusion   compvis.py
diffusers    a folder or file of an AutoencoderKL or AutoencoderTiny     diffusers.py
keras        a .keras file of this package                               keras_file.py
"""

from keras_dit.weights.autoencoders.formats import AUTOENCODERS, export, load, open_source, register
from keras_dit.weights.autoencoders.source import AutoencoderSource

__all__ = ["AUTOENCODERS", "AutoencoderSource", "export", "load", "open_source", "register"]
