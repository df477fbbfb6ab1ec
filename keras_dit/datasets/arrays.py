"""Data sets that fit in memory: the embedded digits, Fashion-MNIST, and how to split one.

An IDX file is 0, 0, 8, its rank, then rank sizes and as many bytes, all big-endian (LeCun,
Cortes, Burges: The MNIST database of handwritten digits, 1998).
"""

import gzip
import importlib.resources
import pathlib
import zlib

import keras
import numpy as np

from keras_dit import images as pictures
from keras_dit.draws import checked_seed, permutation

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


def checked_labels(labels, count):
    """The labels as int32 (count,), or ValueError."""
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(
            f"labels must be of shape ({count},), one for each image. "
            f"Received: shape={labels.shape}"
        )
    if labels.dtype.kind not in "iu" or (count and labels.min() < 0):
        raise ValueError(
            "labels must be integers of at least 0. Received: "
            f"dtype={labels.dtype}, minimum={labels.min() if count else None}"
        )
    return labels.astype("int32")


def load_digits():
    """The embedded handwritten digits.

    Returns:
        `(images, labels)`: (1797, 8, 8, 1) float32 in [-1, 1]; (1797,) int32, 0 to 9.

    Reference: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine
        Learning Repository, 1998; licence CC BY 4.0. The part that scikit-learn ships.
    """
    file = importlib.resources.files("keras_dit") / "data" / "digits.npz"
    with file.open("rb") as stream, np.load(stream) as digits:
        images = digits["images"][..., None].astype("float32") / 8 - 1  # 0 … 16 -> [-1, 1]
        return images, digits["labels"].astype("int32")


def split_indices(labels, fraction, seed):
    """Indices of the two parts, each in random order, with the same share of every class."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1. Received: fraction={fraction}")
    order = permutation(len(labels), checked_seed(seed), 0)
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_class])) + 1
    chosen = np.zeros(len(labels), bool)
    for members in np.split(by_class, starts):
        cut = int(fraction * len(members) + 0.5)
        if len(members) > 1:  # then the class is in both parts
            cut = min(max(cut, 1), len(members) - 1)
        chosen[members[:cut]] = True
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"fraction leaves one part empty. Received: fraction={fraction}, {len(labels)} images"
        )
    return order[chosen[order]], order[~chosen[order]]


def split(images, labels, fraction=0.5, seed=0):
    """Split a data set in two, shuffled, with the same share of every class in both.

    Args:
        images: array (N, ...).
        labels: (N,) integers. A class of two or more images is in both parts.
        fraction: share of the first part, between 0 and 1.
        seed: integer; the same seed gives the same parts everywhere.

    Returns:
        `((images_a, labels_a), (images_b, labels_b))`, the labels int32.

    Raises:
        ValueError: on lengths that differ, an argument out of its range, or an empty part.
    """
    images = np.asarray(images)
    labels = checked_labels(labels, len(images))
    first, second = split_indices(labels, fraction, seed)
    return (images[first], labels[first]), (images[second], labels[second])


def _idx_path(folder, name):
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"expected {name} or {name}.gz in {folder}, found neither")


def is_idx_folder(folder):
    """Whether a folder holds any of the four files, so that it is meant as such a data set."""
    return any(folder.glob("*-idx[13]-ubyte*"))


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


def load_idx(folder, split):
    """uint8 images (N, H, W, 1) and int32 labels (N,) of a folder of IDX files."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'. Received: split={split!r}")
    folder, prefix = pathlib.Path(folder), {"train": "train", "test": "t10k"}[split]
    images = _read_idx(_idx_path(folder, f"{prefix}-images-idx3-ubyte"), 3)
    label_path = _idx_path(folder, f"{prefix}-labels-idx1-ubyte")
    labels = _read_idx(label_path, 1)
    if len(labels) != len(images):
        raise ValueError(f"{label_path} holds {len(labels)} labels for {len(images)} images")
    return images[..., None], labels.astype("int32")


def fashion_mnist_bytes(folder, split):
    """Fashion-MNIST as uint8 images and int32 labels."""
    if folder is not None or FASHION_MNIST_FOLDER.is_dir():
        return load_idx(folder or FASHION_MNIST_FOLDER, split)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'. Received: split={split!r}")
    try:
        parts = dict(zip(("train", "test"), keras.datasets.fashion_mnist.load_data(), strict=True))
    except Exception as error:  # Keras raises a bare Exception when it cannot download
        raise OSError(
            f"Fashion-MNIST is not in {FASHION_MNIST_FOLDER} and cannot be downloaded; "
            f"give the folder of its four IDX files. {error}"
        ) from error
    images, labels = parts[split]
    return images[..., None], labels.astype("int32")


def load_fashion_mnist(folder=None, split="train"):
    """Fashion-MNIST: 28 x 28 grey pictures of clothes, named by `FASHION_MNIST_CLASSES`.

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

    Reference: Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017; licence MIT.
    """
    images, labels = fashion_mnist_bytes(folder, split)
    return pictures.from_uint8(images), labels
