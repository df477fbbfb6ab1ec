"""Random weights of the FID's Inception by a rule, so that nobody has to keep 90 MB of them.

Each tensor is drawn from the checksum of its own name, with a size that keeps activations as large
as they are.
"""

import zlib

import numpy as np


def tensor(name, shape):
    """A float32 tensor for a name of torch-fidelity's state dict."""
    draws = np.random.RandomState(zlib.crc32(name.encode()))  # frozen by numpy
    unit = draws.random_sample(shape).astype("float32") * 2 - 1  # of variance 1/3
    if name.endswith("conv.weight"):
        return unit * np.float32(np.sqrt(6 / np.prod(shape[1:])))
    if name.endswith("fc.weight"):
        return unit * np.float32(np.sqrt(3 / shape[1]))
    if name.endswith(("bn.weight", "running_var")):
        return 1 + np.float32(0.2) * unit
    return np.float32(0.1) * unit


def images():
    """Two images of different sizes, uint8 (1, H, W, 3): one to enlarge, one to reduce."""
    draws = np.random.RandomState(0)
    return [draws.randint(0, 256, (1, *size, 3)).astype("uint8") for size in ((13, 21), (310, 333))]
