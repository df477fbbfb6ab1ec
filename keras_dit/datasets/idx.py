"""Data sets in the files of MNIST, and Fashion-MNIST, which is one.

An IDX file is 0, 0, 8, its rank, then rank sizes and as many bytes, all big-endian (LeCun,
Cortes, Burges: The MNIST database of handwritten digits, 1998).
"""

import gzip
import os
import pathlib
import zlib

import keras
import numpy as np

from keras_dit import images as pixels

__all__ = [
    "FASHION_MNIST_CLASSES",
    "fashion_mnist_bytes",
    "is_idx_folder",
    "load_fashion_mnist",
    "load_idx",
]

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")  # of the Debian package


def _idx_path(folder, name):
    for one in (name, name.replace("-idx", ".idx")):  # as first published, and as often copied
        for path in (folder / one, folder / f"{one}.gz"):
            if path.is_file():
                return path
    raise FileNotFoundError(f"expected {name} or {name}.gz in {folder}, found neither")


def is_idx_folder(folder: pathlib.Path) -> bool:
    """Whether a folder holds any of the four files, so that it is meant as such a data set."""
    return any(folder.glob("*[-.]idx[13]-ubyte*"))


def _read_idx(path, dimensions):
    """The uint8 array of an IDX file, plain or .gz."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"corrupt IDX file {path}: {error}") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < start:
        raise ValueError(
            f"corrupt IDX file {path}: it must begin with {bytes([0, 0, 8, dimensions])!r} and "
            f"{dimensions} sizes. Received: {data[:4]!r}, {len(data)} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    size = int(np.prod(shape, dtype=object))  # exact: a corrupt header holds any number
    if len(data) - start != size:
        raise ValueError(
            f"corrupt IDX file {path}: shape {shape} needs {size} bytes, {len(data) - start} follow"
        )
    return np.frombuffer(data, "uint8", offset=start).reshape(shape)


def load_idx(folder: str | os.PathLike, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, H, W, 1) and int32 labels (N,) of a folder of IDX files."""
    folder, prefix = pathlib.Path(folder), {"train": "train", "test": "t10k"}[split]
    images = _read_idx(_idx_path(folder, f"{prefix}-images-idx3-ubyte"), 3)
    label_path = _idx_path(folder, f"{prefix}-labels-idx1-ubyte")
    labels = _read_idx(label_path, 1)
    if len(labels) != len(images):
        raise ValueError(f"{label_path} holds {len(labels)} labels for {len(images)} images")
    return images[..., None], labels.astype("int32")


def fashion_mnist_bytes(
    folder: str | os.PathLike | None = None, split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST as uint8 images and int32 labels."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'. Received: split={split!r}")
    if folder is not None or FASHION_MNIST_FOLDER.is_dir():
        return load_idx(folder or FASHION_MNIST_FOLDER, split)
    try:
        parts = dict(zip(("train", "test"), keras.datasets.fashion_mnist.load_data(), strict=True))
    except Exception as error:  # Keras raises a bare Exception when it cannot download
        raise OSError(
            f"Fashion-MNIST is not in {FASHION_MNIST_FOLDER} and cannot be downloaded; "
            f"give the folder of its four IDX files. {error}"
        ) from error
    images, labels = parts[split]
    return images[..., None], labels.astype("int32")


def load_fashion_mnist(
    folder: str | os.PathLike | None = None, split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST: 28 x 28 grey images of clothes, named by `FASHION_MNIST_CLASSES`.

    Args:
        folder: folder of the IDX files as published (`train-images-idx3-ubyte` and so on, plain
            or `.gz`). None: the Debian package's /usr/share/datasets/fashion-mnist if it is
            there, else `keras.datasets.fashion_mnist`, which downloads.
        split: "train" or "test".

    Returns:
        `(images, labels)`: (60000 or 10000, 28, 28, 1) float32 in [-1, 1]; int32 labels 0 to 9.

    Raises:
        FileNotFoundError: if a file is missing.
        OSError: if it must be downloaded and cannot be.
        ValueError: on an unknown split, or a corrupt file, which is named.

    Example:

    ```python
    images, labels = keras_dit.datasets.load_fashion_mnist(split="test")
    keras_dit.datasets.FASHION_MNIST_CLASSES[labels[0]]  # "Ankle boot"
    ```

    Reference: Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017; licence MIT.
    """
    images, labels = fashion_mnist_bytes(folder, split)
    return pixels.from_uint8(images), labels
