"""What every format of autoencoders gives: the tensors and what the file says of itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_dit.codecs import Autoencoder, AutoencoderKL
from keras_dit.notices import warn
from keras_dit.weights.autoencoders import layout
from keras_dit.weights.files import Stored

# What a tensor's numbers do not depend on.
_FREE = {"dtype", "name", "trainable", "groups"}
UNSCALED = (
    "does not say the scale of its latents, which is taken for 1: give scale= and shift=. Stable "
    "Diffusion 3: scale=1.5305, shift=0.0609; Flux: scale=0.3611, shift=0.1159"
)


class AutoencoderSource(NamedTuple):
    """An opened file or folder.

    Attributes:
        path: as it was given.
        config: arguments of the network that follow from it, as a dict.
        tensors: {name in the format: `Stored`}.
        names: common name -> those in the format, as for `layout.collected`.
        kind: the class of the network.
        scale, shift: of its latents; None where it does not say.
        notes: what a person should know of it, a sentence each.
    """

    path: str
    config: dict[str, Any]
    tensors: dict[str, Stored]
    names: layout.Names
    kind: type = AutoencoderKL
    scale: float | tuple[float, ...] | None = None
    shift: float | tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def network(self, **overrides: Any) -> keras.Model:
        """The network, an `AutoencoderKL` or `AutoencoderTiny`.

        Args:
            **overrides: dtype, name; groups where the file does not say it.

        Raises:
            ValueError: for arguments that contradict the file, or a file that does not hold the
                tensors that it should.
        """
        unlike = {k: v for k, v in overrides.items() if k not in _FREE and v != self.config.get(k)}
        if unlike:
            says = ", ".join(f"{name}={self.config.get(name)}" for name in unlike)
            given = ", ".join(f"{name}={value}" for name, value in unlike.items())
            raise ValueError(f"{self.path} holds an autoencoder with {says}. Received: {given}")
        config = {**self.config, **overrides}
        if self.kind is AutoencoderKL and "groups" not in config:
            raise ValueError(
                f"{self.path} does not say how many groups its norms have, and with channels "
                f"{config['channels']} they are not the usual 32: give groups="
            )
        try:
            expected = layout.shapes(self.kind, config)
        except ValueError as error:
            raise ValueError(
                f"{self.path} holds no autoencoder that can be built: {error}"
            ) from None
        tensors = layout.collected(self.tensors, expected, self.names, self.path)
        return layout.load(tensors, self.kind, config, self.path)

    def codec(
        self,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
        **overrides: Any,
    ) -> Autoencoder:
        """The codec, with a scale and shift of one's own where they are given.

        Raises:
            ValueError: as for `network`.
        """
        scale, shift = (
            own if given is None else given
            for given, own in ((scale, self.scale), (shift, self.shift))
        )
        if scale is None:
            warn(f"{self.path} {UNSCALED}")
        network = self.network(**overrides)
        return Autoencoder(network, 1.0 if scale is None else scale, shift or 0.0)
