"""Weights from elsewhere: load them, and go back.

    format          what it is                                    its module
    facebook_dit    .pt or .safetensors of facebookresearch/DiT,  facebook_dit.py
                    of its train.py, of SiT
    diffusers       a folder of a DiTTransformer2DModel           diffusers.py
    jit             .pth of a checkpoint of LTH14/JiT             jit.py

A format is one `Format`, in one file, and one line of a registry.
"""

from keras_dit.weights import autoencoders, files, jit, layout
from keras_dit.weights.files import Stored
from keras_dit.weights.format import Format
from keras_dit.weights.formats import (
    FORMATS,
    export,
    format_of_target,
    load,
    open_source,
    register,
    suffixes,
    titles,
)
from keras_dit.weights.source import Source

__all__ = [
    "FORMATS",
    "Format",
    "Source",
    "Stored",
    "autoencoders",
    "export",
    "files",
    "format_of_target",
    "jit",
    "layout",
    "load",
    "open_source",
    "register",
    "suffixes",
    "titles",
]
