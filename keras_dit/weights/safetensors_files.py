""".safetensors files, by the library of that name."""

import numpy as np

from keras_dit.files import beside
from keras_dit.weights.stored import Stored


def _library():
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            'reading and writing .safetensors needs safetensors: pip install "keras_dit[weights]"'
        ) from None
    return safetensors


def read(path):
    """{name: `Stored`} of a .safetensors file.

    Raises:
        ImportError: without the library.
        ValueError: for a file that is truncated or corrupt.
    """
    library = _library()
    try:
        file = library.safe_open(path, framework="numpy")
    except library.SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from None

    def stored(name):
        return Stored(tuple(file.get_slice(name).get_shape()), lambda: file.get_tensor(name))

    return {name: stored(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)


def write(tensors, path):
    """Write {name: `Stored`} as float32 to a .safetensors file.

    Raises:
        ImportError: without the library.
    """
    save_file = _library().numpy.save_file
    arrays = {name: np.ascontiguousarray(t.read(), "float32") for name, t in tensors.items()}
    with beside(path) as new:
        save_file(arrays, new, metadata={"format": "pt"})  # without it diffusers refuses the file
