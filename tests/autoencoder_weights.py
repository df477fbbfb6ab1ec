"""Numbers that need no file: weights and images of small autoencoders, by a formula.

`goldens/make_autoencoders.py` gives them to diffusers, the tests to keras_dit.
"""

import json
import math
import pathlib
import zlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "goldens" / "autoencoders.npz"


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


# What diffusers writes of a family, made anew


def said(family, name):
    """What the goldens say of a family: its config, shapes, or names in CompVis's layout."""
    with np.load(GOLDENS) as stored:
        return json.loads(bytes(stored[f"{family}/{name}"]))


def state(family):
    """{name: array} of a family as diffusers names them."""
    return {name: tensor(name, tuple(shape)) for name, shape in said(family, "shapes").items()}


def write(arrays, path):
    """Write {name: array} as a file of tensors."""
    from keras_dit.weights import files

    files.write({k: files.Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}, path)
    return path


def folder(family, path, changes=None, arrays=None):
    """A folder of an autoencoder as diffusers writes it."""
    path.mkdir(parents=True, exist_ok=True)
    config = {**said(family, "config"), **(changes or {})}
    (path / "config.json").write_text(json.dumps(config))
    arrays = state(family) if arrays is None else arrays
    write(arrays, path / "diffusion_pytorch_model.safetensors")
    return path
