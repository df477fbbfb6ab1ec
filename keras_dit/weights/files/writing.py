"""A file of tensors, its container named by its suffix."""

import os
import pathlib
from collections.abc import Mapping

from keras_dit.weights.files import pytorch, safetensors
from keras_dit.weights.files.stored import Stored


def write(
    tensors: Mapping[str, Stored], path: str | os.PathLike, notes: Mapping[str, str] | None = None
) -> None:
    """Write tensors as float32: .safetensors by that suffix, else as PyTorch's .pt.

    Args:
        tensors: {name: `Stored`}.
        path: of the file; one that is there is replaced when the new one is whole.
        notes: {name: text} to keep beside the tensors, where other programs do not see it.

    Raises:
        ImportError: without the library that it takes.
        OSError: if it cannot be written.
    """
    container = safetensors if pathlib.Path(path).suffix == ".safetensors" else pytorch
    container.write(tensors, path, dict(notes or {}))


def check_library(path: str | os.PathLike) -> None:
    """Raise ImportError now if `write` would for want of a library."""
    if pathlib.Path(path).suffix == ".safetensors":
        safetensors.library()
