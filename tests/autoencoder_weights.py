"""Numbers that need no file: weights and images of small autoencoders, by a formula.

`goldens/make_autoencoders.py` gives them to diffusers, the tests to keras_dit.
"""

import math
import zlib

import numpy as np


def numbers(name, shape):
    """Numbers between -1 and 1 that look drawn evenly, other ones for each name."""
    steps = np.arange(math.prod(shape), dtype="float64") + zlib.crc32(name.encode()) % 100_000
    return (2 * np.modf(np.abs(np.sin(12.9898 * steps)) * 43758.5453)[0] - 1).reshape(shape)


def tensor(name, shape):
    """The weights of that name in PyTorch's shape, such that activations stay of unit size."""
    drawn = numbers(name, shape)
    if len(shape) > 1:
        return (drawn * math.sqrt(3 / math.prod(shape[1:]))).astype("float32")
    gain = name.endswith("weight")
    return (1 + 0.2 * drawn if gain else 0.1 * drawn).astype("float32")


def images(shape):
    """Images or latents (B, H, W, C) between -1 and 1."""
    return numbers("images", shape).astype("float32")
