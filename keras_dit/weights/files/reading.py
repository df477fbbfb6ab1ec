"""A file of tensors, its container found by its first bytes."""

import os
from typing import Any

from keras_dit.weights.files import pytorch, safetensors


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a .pt or .safetensors file, with `Stored` for tensors.

    Raises:
        ValueError: for a file that is damaged or something else, with what it is where that can
            be told.
    """
    content = _container(path).read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no weights but a {type(content).__name__}")
    return content


def note(path: str | os.PathLike, name: str) -> str | None:
    """The text that `write` put under that name beside the tensors, or None.

    Raises:
        ValueError: as for `read`.
    """
    return _container(path).note(path, name)


def _container(path):
    with open(path, "rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # before it stands a length, whose bytes may be those of the others
        return safetensors
    if head.startswith((b"PK", b"\x80")):
        return pytorch
    raise ValueError(f"{path} {_what(head)}")


def _what(head):
    """What a file is that holds no weights, by its first bytes."""
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if text.startswith(b"<"):
        return "is a web page, not weights: its download went wrong"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights themselves: run git lfs pull"
    return "is neither a PyTorch file nor a .safetensors file"
