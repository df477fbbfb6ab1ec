"""One way to name any data set: by its name, or by its file or folder."""

import os
import pathlib

from PIL import Image

from keras_dit import notices
from keras_dit.datasets import arrays, captioned, idx, latents
from keras_dit.datasets.batches import ImageBatches, batches_of
from keras_dit.datasets.folders import Sizes, checked_size, read_folder
from keras_dit.datasets.listing import list_folder
from keras_dit.datasets.parts import Contents, divide, limited
from keras_dit.registry import Registry, nearest_first

__all__ = ["NAMES", "load"]


def _named_labels(images, labels, class_names=None):
    names = range(labels.max() + 1) if class_names is None else class_names
    return Contents(images, labels, tuple(map(str, names)))


NAMES = Registry(
    "data set",
    {
        "digits": lambda: _named_labels(*arrays.load_digits()),
        "captioned-digits": captioned.contents,
        "fashion-mnist": lambda: _named_labels(
            *idx.fashion_mnist_bytes(), idx.FASHION_MNIST_CLASSES
        ),
    },
)


def _read_whole(source):
    """The contents of a data set that is read whole, or None for a folder of images."""
    if source in NAMES:
        return NAMES[source]()
    path = pathlib.Path(source)
    if path.suffix.lower() in (".npy", ".npz") and not path.is_dir():
        return arrays.read_arrays(path)
    if not path.is_dir():
        raise ValueError(
            f"the data must be one of {', '.join(nearest_first(source, NAMES))}, or an existing "
            f"folder, .npz or .npy file. Received: {str(source)!r}"
        )
    if latents.is_latent_folder(path):
        return latents.read_latents(path)
    return _named_labels(*idx.load_idx(path)) if idx.is_idx_folder(path) else None


def _missing_size(folder, labelled):
    first = list_folder(folder, labelled)[0].paths[0]
    try:
        with Image.open(first) as image:
            size = f"{image.height} x {image.width}"
    except OSError:
        size = "unreadable"
    return ValueError(
        f"image_size is needed for a folder of images. The first one, {first}, is {size}"
    )


def _check_fit(images, image_size, channels):
    """Raise ValueError if arrays are not of the size that was asked for."""
    *size, here = getattr(images, "image_shape", images.shape[1:])  # of latents, what they show
    size = tuple(size)
    if image_size is not None and checked_size(image_size) != size:
        raise ValueError(
            f"image_size must be None or {size} for this data; only a folder of images is "
            f"resized. Received: image_size={image_size}"
        )
    if channels not in (None, here):
        raise ValueError(
            f"channels must be None or {here} for this data; only a folder of images "
            f"is converted. Received: channels={channels}"
        )


def load(
    source: str | os.PathLike,
    batch_size: int | None = None,
    *,
    image_size: Sizes | None = None,
    channels: int | None = None,
    flip: bool | None = None,
    seed: int = 0,
    validation: float = 0.0,
    limit: int | None = None,
    labels: bool = True,
    on_error: str = "raise",
    threads: int = 8,
    draft: bool = False,
) -> ImageBatches:
    """The training batches of a data set, named as the command `keras-dit train --data` does.

    Args:
        source: "digits", "fashion-mnist", a folder of IDX files as MNIST publishes them, a folder
            of images as for `image_folder`, a folder of latents as for `cached_latents`, or an
            array file: `.npy` with images (N, H, W, C), `.npz` with such `images` and perhaps
            `labels` and `class_names`. A name wins over a folder; `./digits` is the folder.
        batch_size: images in a batch; None: 128, or less for fewer than 512 images.
        image_size: (H, W), or one integer, for a folder of images, which needs it, or a list of
            several as for `image_folder`; else None, or the size that the images have.
        channels: of a folder of images: 3 for colour (None), 1 for grey; else None, or what the
            images have.
        flip: whether an image is mirrored left to right at random; None: it is not, but for
            latents that were stored with their mirrored images.
        seed: integer for the orders, the flips, the share for validation and the limit.
        validation: share of every class that is kept apart for validation, such as 0.05.
        limit: at most so many images, drawn at random, each class by its share.
        labels: False leaves the classes out, for a network without them.
        on_error: "raise" or "skip", what a broken image does, as for `image_folder`.
        threads: how many images are read at once.
        draft: of a folder of images: whether large JPEGs are decoded smaller, as for
            `image_folder`. `keras-dit train` does.

    Returns:
        `ImageBatches`; its `input_shape`, `num_classes` and `class_names` tell what network fits,
        its `validation` holds the batches for `fit(validation_data=)`, or None. What was left out
        of the data or scaled is said in a warning.

    Raises:
        ValueError: on an unknown name (the nearest comes first), on a folder or file that holds
            no data set, or on a size that is missing or cannot be had.
        FileNotFoundError: if a file is missing.
        OSError: if an array file cannot be read.

    Example:

    >>> import keras_dit
    >>> data = keras_dit.datasets.load("digits", validation=0.05)
    >>> data.input_shape, data.num_classes, len(data.images), len(data.validation.images)
    ((8, 8, 1), 10, 1707, 90)
    """
    found = _read_whole(source)
    if found is not None:
        _check_fit(found.images, image_size, channels)
    elif image_size is None:
        raise _missing_size(source, labels)
    else:
        found = read_folder(
            source,
            image_size,
            channels or 3,
            labelled=labels,
            on_error=on_error,
            threads=threads,
            draft=draft,
        )
    if not labels:
        found = found.without_labels()
    if isinstance(found.images, latents.LatentFiles):
        flip = found.images.checked_flip(flip)
    found = divide(limited(found, limit, seed), validation, seed)
    for note in found.notes:
        notices.warn(note)
    return batches_of(found, batch_size, flip=bool(flip), seed=seed, threads=threads)
