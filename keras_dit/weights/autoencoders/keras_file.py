"""A .keras file of this package: of a codec (`Autoencoder.save`), or of an autoencoder alone."""

import dataclasses

from keras_dit.codecs import Autoencoder, AutoencoderKL, AutoencoderTiny
from keras_dit.codecs.autoencoder import CodecFile
from keras_dit.notices import warn
from keras_dit.serialization import load_model
from keras_dit.weights.autoencoders.source import UNSCALED
from keras_dit.weights.format import Format


class KerasFile(Format):
    """A .keras file with a codec or an autoencoder."""

    title = "a .keras file of a codec or an autoencoder"
    suffixes = (".keras",)

    def detect(self, path):
        return path.suffix == ".keras"

    def open(self, path):
        model = load_model(path)
        if isinstance(model, CodecFile):
            return KerasSource(str(path), model.codec)
        if isinstance(model, (AutoencoderKL, AutoencoderTiny)):
            return KerasSource(str(path), Autoencoder(model), scaled=False)
        raise ValueError(f"{path} holds a {type(model).__name__}, not an autoencoder")

    def export(self, network, path, facts=None):
        network.save(path)


class KerasSource:
    """An opened file.

    Args:
        path: as it was given.
        codec: that it holds.
        scaled: whether the file says scale and shift.
    """

    notes = ()

    def __init__(self, path: str, codec: Autoencoder, scaled: bool = True):
        self.path, self.scaled, self._codec = path, scaled, codec

    def codec(self, scale=None, shift=None, **overrides):
        """The codec, with a scale and shift of one's own where they are given.

        Raises:
            ValueError: for arguments of the network, which the file says itself.
        """
        if overrides:
            given = ", ".join(f"{name}={value}" for name, value in overrides.items())
            raise ValueError(f"{self.path} says itself how it was made. Received: {given}")
        if scale is None and not self.scaled:
            warn(f"{self.path} {UNSCALED}")
        own = self._codec
        scale, shift = own.scale if scale is None else scale, own.shift if shift is None else shift
        return dataclasses.replace(own, scale=scale, shift=shift)
