"""The formats of autoencoders that are known, and what is done with any of them."""

import os
import pathlib
from typing import Any

from keras_dit.codecs import Autoencoder
from keras_dit.codecs.autoencoder import OPENERS
from keras_dit.registry import Opener, Registry
from keras_dit.weights import hub
from keras_dit.weights.autoencoders.compvis import CompVis
from keras_dit.weights.autoencoders.diffusers import Diffusers
from keras_dit.weights.autoencoders.keras_file import KerasFile
from keras_dit.weights.format import Format

AUTOENCODERS = Registry("format")


def register(name: str, format: Format) -> Format:
    """Make a format known. The last one registered is the first that is asked about a file.

    Raises:
        ValueError: if it is none, or the name is taken.
    """
    if not isinstance(format, Format):
        raise ValueError(f"format must be an object of a class of Format. Received: {format!r}")
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
    patterns = [pattern for format in AUTOENCODERS.values() for pattern in format.hub_patterns]
    path = pathlib.Path(hub.local(path, patterns))
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    for format in reversed(AUTOENCODERS.values()):
        if format.detect(path):
            return format.open(path)
    titles = "; ".join(format.title for format in AUTOENCODERS.values())
    raise ValueError(f"{path} is none of these: {titles}")


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
