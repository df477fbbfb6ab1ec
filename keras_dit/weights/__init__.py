"""Weights from elsewhere: load them, and go back.

    format          what it is                                    its module
    facebook_dit    .pt or .safetensors of facebookresearch/DiT,  facebook_dit.py
                    of its train.py, of SiT
    diffusers       a folder of a DiTTransformer2DModel           diffusers.py

A format is a module with `open_source(path) -> Source` and `export(network, path)`.
"""

import pathlib

from keras_dit.networks import DiTModel
from keras_dit.registry import Registry
from keras_dit.weights import diffusers, facebook_dit, hub

__all__ = ["FORMATS", "export", "load", "open_source"]

FORMATS = Registry("format", {"facebook_dit": facebook_dit, "diffusers": diffusers})


def open_source(path):
    """The `Source` of a file, a folder or `hf://owner/name`: what it says, no numbers read yet.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for anything but weights of a known format.
    """
    path = pathlib.Path(hub.local(path))
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    return (diffusers if path.is_dir() else facebook_dit).open_source(path)


def load(path, **overrides):
    """The network of published weights, of any known format.

    The format is found by the content. Tensors are read one after the other, so that loading
    takes little more memory than the network; no code in a file is run.

    Args:
        path: a file, a folder or `hf://owner/name`.
        **overrides: arguments of `DiTModel` that the weights leave open, such as dtype, remat or
            label_dropout; num_heads where the file does not say it; a rectangular input_shape;
            num_classes if the network was trained without label dropout.

    Returns:
        A `DiTModel`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is broken, holds something else, or contradicts an argument.
    """
    return open_source(path).network(**overrides)


def export(network, path, format="facebook_dit"):
    """Write a network for the original program, which loads it strictly. Weights become float32.

    Args:
        network: a `DiTModel`.
        path: "facebook_dit": a file, .safetensors by that suffix, else as .pt. "diffusers": a
            folder.
        format: a key of `FORMATS`.

    Raises:
        ValueError: for an unknown format or a network that it cannot hold.
    """
    if not isinstance(network, DiTModel):
        raise ValueError(f"network must be a DiTModel. Received: {network!r}")
    FORMATS.named(format).export(network, path)


DiTModel.open_weights = staticmethod(load)
