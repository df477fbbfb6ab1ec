"""What the networks of autoencoders have in common."""

from collections.abc import Callable
from typing import Any

import keras


class AutoencoderNetwork(keras.Model):
    """A network between images and latents. A subclass is built at construction from `config`.

    Attributes:
        config: the arguments of the subclass.
        in_channels, latent_channels: of the images and the latents.
        factor: by how much latents are smaller than images, in each direction.
        encoding: layers and functions that make of images, one after the other, the mean and the
            log variance side by side. But for norms and attention, each looks at neighbours only.
        decoding: those that make images of latents.

    Call:
        images (B, H, W, in_channels) -> images of the latents that are most likely.
    """

    config: dict
    in_channels: int
    latent_channels: int

    @property
    def factor(self) -> int:
        raise NotImplementedError

    @property
    def encoding(self) -> list[Callable]:
        raise NotImplementedError

    @property
    def decoding(self) -> list[Callable]:
        raise NotImplementedError

    def encode(self, images: Any) -> tuple[Any, Any]:
        """Images -> mean and log variance of their latents."""
        raise NotImplementedError

    def decode(self, latents: Any) -> Any:
        """Latents -> images."""
        raise NotImplementedError

    def call(self, images: Any) -> Any:
        return self.decode(self.encode(images)[0])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        base = super().get_config()
        own = {"name": base["name"], "trainable": base["trainable"], "dtype": base["dtype"]}
        return {**own, **self.config}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        return cls(**config)

    def get_build_config(self) -> None:
        return None  # built at construction


def check_size(images: Any, network: Any) -> None:
    """Raise ValueError for images whose shape an autoencoder does not take."""
    shape, factor = tuple(images.shape), network.factor
    fits = len(shape) == 4 and shape[3] == network.in_channels
    if not fits or any(side is not None and side % factor for side in shape[1:3]):
        raise ValueError(
            f"images must be (batch, height, width, {network.in_channels}), channels last, with "
            f"height and width multiples of {factor}. Received: shape {shape}"
        )
