"""The embedded digits, and arrays in `.npy` and `.npz` files."""

import importlib.resources
import os
import pathlib
import zipfile

import numpy as np

from keras_dit.datasets.parts import Contents, checked_labels

__all__ = ["load_digits", "read_arrays"]

# Names of the images, their labels, and the same for validation: ours, Keras's, MedMNIST's, and
# those of numpy.savez without names, such as the reference batches of ADM.
NAMES = (
    ("images", "labels", "val_images", "val_labels"),
    ("x", "y", "x_val", "y_val"),
    ("x_train", "y_train", "x_val", "y_val"),
    ("train_images", "train_labels", "val_images", "val_labels"),
    ("arr_0", "arr_1", None, None),
)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The embedded handwritten digits.

    Returns:
        `(images, labels)`: (1797, 8, 8, 1) float32 in [-1, 1]; (1797,) int32, 0 to 9.

    Example:

    >>> import keras_dit
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> images.shape, labels[:4].tolist()
    ((1797, 8, 8, 1), [0, 1, 2, 3])

    Reference: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine
        Learning Repository, 1998; licence CC BY 4.0. The part that scikit-learn ships.
    """
    file = importlib.resources.files("keras_dit") / "data" / "digits.npz"
    with file.open("rb") as stream, np.load(stream) as digits:
        images = digits["images"][..., None].astype("float32") / 8 - 1  # 0 … 16 -> [-1, 1]
        return images, digits["labels"].astype("int32")


def read_arrays(path: str | os.PathLike) -> Contents:
    """The images of an array file, with what else it holds.

    Args:
        path: `.npy`: images (N, H, W, C) or (N, H, W), read when they are asked for. `.npz`: such
            `images`, and if there are any `labels` (N,), integers or names of classes,
            `class_names` (K,), `val_images` and `val_labels`; or the names in `NAMES`.

    Raises:
        OSError: if it cannot be read; the message names the file.
        ValueError: if it holds no images, or pixels of no known range.
    """
    arrays = _read(pathlib.Path(path))
    names = next((names for names in NAMES if names[0] in arrays), None)
    if names is None:
        raise ValueError(
            f"{path} must hold images by one of the names {', '.join(n[0] for n in NAMES)}. "
            f"Received: {', '.join(arrays) or 'no arrays'}"
        )
    images, labels, val_images, val_labels = (arrays.pop(name, None) for name in names)
    class_names = arrays.pop("class_names", None)
    images = _channels_last(images, path)
    value_range, notes = _value_range(images, path)
    if arrays:
        notes += (f"{path}: left out: {', '.join(arrays)}",)
    labels, class_names = _labels(labels, class_names, len(images))
    found = Contents(images, labels, class_names, value_range, notes=notes)
    if val_images is None:
        return found
    val_images = _channels_last(val_images, path)
    val_labels, _ = _labels(val_labels, class_names, len(val_images))
    return found._replace(validation=found._replace(images=val_images, labels=val_labels))


def _read(path):
    """{name: array}; the one of a `.npy` file is called images."""
    try:
        if path.suffix.lower() == ".npy":
            return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(f"cannot read the arrays {path}: {error}") from error


def _channels_last(images, path):
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"images must be of shape (N, H, W, C) or (N, H, W), not empty. Received: {path} with "
            f"shape={images.shape}"
        )
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(
            "images must be channels-last, (N, H, W, C); images.transpose(0, 2, 3, 1) makes them "
            f"so. Received: {path} with shape={images.shape}"
        )
    return images


def _value_range(images, path):
    """(low, high) of the pixels, None if `ImageBatches` knows; and what there is to say of it."""
    low, high = images.min(), images.max()
    if images.dtype == np.uint8 and high > 1:
        return None, ()
    if images.dtype.kind == "f" and -1.5 <= low < 0 < high <= 1.5:
        return None, ()
    if images.dtype.kind in "fiub" and low >= 0:
        for top in (1, 255, 65535):
            if high <= top and (top < 65535 or images.dtype.kind != "f"):
                return (0, top), (f"{path}: pixels from {low} to {high} are taken as 0 to {top}",)
    raise ValueError(
        "pixels must be finite, from 0 to 255, 0 to 1, or -1 to 1. "
        f"Received: {path} with {images.dtype} from {low} to {high}"
    )


def _labels(labels, class_names, count):
    """int32 labels and a name for each; labels that are names are numbered in their order."""
    if labels is None:
        return None, None
    if labels.dtype.kind == "U":
        names = sorted(set(labels.ravel().tolist())) if class_names is None else list(class_names)
        wrong = sorted(set(labels.ravel().tolist()) - set(names))
        if wrong:
            raise ValueError(f"labels must be among class_names. Received: {wrong[0]!r}")
        labels, class_names = np.vectorize(names.index)(labels), names
    labels = checked_labels(labels, count)
    if class_names is None:
        class_names = range(labels.max() + 1)
    return labels, tuple(map(str, class_names))
