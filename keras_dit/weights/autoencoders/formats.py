"""The formats of autoencoders that are known, and what is done with any of them."""

import os
from typing import Any

from keras_dit.codecs import Autoencoder
from keras_dit.codecs.autoencoder import OPENERS
from keras_dit.registry import Opener
from keras_dit.weights.autoencoders.compvis import CompVis
from keras_dit.weights.autoencoders.diffusers import Diffusers
from keras_dit.weights.autoencoders.keras_file import KerasFile
from keras_dit.weights.format import Format, Formats

AUTOENCODERS = Formats()


def register(name: str, format: Format) -> Format:
    """Make a format known. The last one registered is the first that is asked about a file.

    Raises:
        ValueError: if it is none, or the name is taken.
    """
    return AUTOENCODERS.register(name, format)


register("compvis", CompVis())
register("diffusers", Diffusers())
register("keras", KerasFile())


def open_source(path: str | os.PathLike) -> Any:
    """What a file, a folder or `hf://owner/name` says of its autoencoder, no numbers read yet.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for anything but an autoencoder of a known format.
    """
    return AUTOENCODERS.open(path)


def load(path: str | os.PathLike, scale=None, shift=None, **overrides: Any) -> Autoencoder:
    """The codec of a published autoencoder: `codecs.Autoencoder.from_preset`."""
    return open_source(path).codec(scale, shift, **overrides)


def export(codec: Any, path: str | os.PathLike, format: str = "diffusers") -> None:
    """Write an autoencoder for another program, as float32: `keras_dit.weights.export`.

    Args:
        codec: an `Autoencoder`, or its network, whose scale is then 1.
        path: where to.
        format: a name of `AUTOENCODERS`.

    Raises:
        ValueError: for an unknown format.
    """
    if not isinstance(codec, Autoencoder):
        codec = Autoencoder(codec)
    chosen = AUTOENCODERS.named(format)
    chosen.check(path)
    chosen.export(codec, path)


OPENERS.register("weights", Opener(lambda preset: True, load))
