""".safetensors files, by the library of that name."""

import numpy as np

from keras_dit.files import beside
from keras_dit.weights.files.stored import Stored


def library():
    """The library. ImportError, with the remedy, where it is missing."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "reading and writing .safetensors needs safetensors: pip install safetensors"
        ) from None
    return safetensors


def _open(path):
    module = library()
    try:
        return module.safe_open(path, framework="numpy")
    except module.SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from None


def read(path):
    """{name: `Stored`} of a .safetensors file.

    Raises:
        ImportError: without the library.
        ValueError: for a file that is truncated or corrupt.
    """
    file = _open(path)

    def stored(name):
        return Stored(tuple(file.get_slice(name).get_shape()), lambda: file.get_tensor(name))

    return {name: stored(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)


def note(path, name):
    """The text of that name in the file's metadata, or None."""
    return (_open(path).metadata() or {}).get(name)


def write(tensors, path, notes):
    """Write {name: `Stored`} as float32, and {name: text} as metadata.

    Raises:
        ImportError: without the library.
    """
    save_file = library().numpy.save_file
    arrays = {name: np.ascontiguousarray(t.read(), "float32") for name, t in tensors.items()}
    with beside(path) as new:
        # Without "format" diffusers refuses the file.
        save_file(arrays, new, metadata={"format": "pt", **notes})
