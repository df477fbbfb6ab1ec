"""One way to name any data set: by its name, or by its folder."""

import pathlib

from PIL import Image

from keras_dit.datasets import arrays
from keras_dit.datasets.batches import ImageBatches
from keras_dit.datasets.folders import checked_size, image_folder, list_classes
from keras_dit.registry import nearest_first

NAMES = ("digits", "fashion-mnist")


def _read_whole(source):
    """(images, labels, class names) of a data set that is read whole, or None for pictures."""
    if source == "digits":
        return (*arrays.load_digits(), None)
    if source == "fashion-mnist":
        return (*arrays.fashion_mnist_bytes(None, "train"), arrays.FASHION_MNIST_CLASSES)
    folder = pathlib.Path(source)
    if not folder.is_dir():
        names = ", ".join(nearest_first(source, NAMES))
        raise ValueError(
            f"the data must be one of {names}, or an existing folder. Received: {str(source)!r}"
        )
    if arrays.is_idx_folder(folder):
        return (*arrays.load_idx(folder, "train"), None)
    return None


def _missing_size(folder):
    first = list_classes(pathlib.Path(folder))[1][0]
    try:
        with Image.open(first) as picture:
            size = f"{picture.height} x {picture.width}"
    except OSError:
        size = "unreadable"
    return ValueError(
        f"image_size is needed for a folder of pictures. The first one, {first}, is {size}"
    )


def load(source, batch_size=128, *, image_size=None, channels=3, flip=False, seed=0):
    """The training batches of a data set, named as the command `keras-dit train --data` does.

    Args:
        source: "digits", "fashion-mnist", a folder of IDX files as MNIST publishes them, or a
            folder of pictures as for `image_folder`. A name wins over a folder; `./digits` is
            the folder.
        batch_size: images in a batch.
        image_size: (H, W), or one integer, for a folder of pictures, which needs it; else None,
            or the size that the images have.
        channels: of a folder of pictures: 3 for colour, 1 for grey.
        flip: whether an image is mirrored left to right at random.
        seed: integer for the orders and the flips.

    Returns:
        `ImageBatches`; its `input_shape`, `num_classes` and `class_names` tell what network fits.

    Raises:
        ValueError: on an unknown name (the nearest comes first), on a folder that holds no data
            set, or on an image_size that is missing or cannot be had.
        FileNotFoundError: if an IDX file is missing.
    """
    found = _read_whole(source)
    if found is None:
        if image_size is None:
            raise _missing_size(source)
        return image_folder(source, image_size, channels, batch_size, flip=flip, seed=seed)
    images, labels, class_names = found
    size = images.shape[1:3]
    if image_size is not None and checked_size(image_size) != size:
        raise ValueError(
            f"image_size must be None or {size} for this data; only a folder of pictures is "
            f"resized. Received: image_size={image_size}"
        )
    return ImageBatches(images, labels, batch_size, flip=flip, seed=seed, class_names=class_names)
