"""Pictures in a folder for each class: FOLDER/CLASS/**/*.png and the like."""

import os
import pathlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_dit import images as pictures
from keras_dit.datasets.arrays import split_indices
from keras_dit.datasets.batches import ImageBatches

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def checked_size(image_size):
    """An image size given as (H, W), or as one integer for both, as a tuple; or ValueError."""
    size = (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(side is None or side != int(side) or side < 1 for side in size):
        raise ValueError(
            "image_size must be (H, W), or one integer, of at least 1. "
            f"Received: image_size={image_size}"
        )
    return tuple(map(int, size))


class ImageFiles:
    """A sequence of pictures that are read when they are asked for.

    A picture is halved with a box filter while it stays large enough, resized by a bicubic filter
    to cover image_size, and cut at the centre, as in ADM and DiT (`keras_dit.images.read`).

    Args:
        paths: the files.
        image_size: (H, W), or one integer for both.
        channels: 3 for colour, 1 for grey.

    Attributes:
        shape: (N, H, W, C), without reading a file.

    Raises:
        ValueError: on an argument out of its range.
        OSError: on reading a picture that is missing or broken; the message names the file.
    """

    def __init__(self, paths, image_size, channels=3):
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3. Received: channels={channels}")
        self.paths, self.channels = list(paths), channels
        self.image_size = checked_size(image_size)

    @property
    def shape(self):
        """(N, H, W, C), from the arguments alone."""
        return (len(self.paths), *self.image_size, self.channels)

    def __len__(self):
        """The number of pictures."""
        return len(self.paths)

    def __getitem__(self, index):
        """Picture index, uint8 (H, W, C)."""
        return pictures.read(self.paths[index], self.image_size, self.channels)

    def subset(self, indices):
        """The pictures of these indices, in their order, as another sequence."""
        return ImageFiles([self.paths[i] for i in indices], self.image_size, self.channels)


def _is_picture(name):
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def _pictures_under(folder):
    """The pictures in a folder and the folders in it, sorted, without what is hidden."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(place, name) for name in names if _is_picture(name)]
    return sorted(found)


def _class_folders(folder):
    """The folders of the classes, sorted by name, or an error that says what was expected."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if not entries:
        raise ValueError(f"{folder} is empty; expected {folder}/CLASS/PICTURE.png")
    classes = [entry for entry in entries if entry.is_dir()]
    loose = sum(not entry.is_dir() and _is_picture(entry.name) for entry in entries)
    if len(classes) < 2:
        raise ValueError(
            f"expected at least two folders in {folder}, one for each class, as in "
            f"{folder}/CLASS/PICTURE.png. Found: {len(classes)} folders, {loose} pictures"
        )
    if loose:
        warnings.warn(f"{loose} pictures in {folder} are in no class: ignored", stacklevel=4)
    return classes


def list_classes(folder):
    """The class names, and the paths and labels of all pictures, without opening a file."""
    classes = _class_folders(folder)
    paths, labels = [], []
    for label, place in enumerate(classes):
        found = _pictures_under(place)
        if not found:
            raise ValueError(
                f"no picture in the class folder {place}; known suffixes: "
                + " ".join(PICTURE_SUFFIXES)
            )
        paths += found
        labels += [label] * len(found)
    return tuple(place.name for place in classes), paths, np.array(labels, "int32")


def _readable(path):
    try:
        pictures.read(path)
    except OSError:
        return False
    return True


def _without_unreadable(class_names, paths, labels, threads):
    """What is left when every picture was decoded once, with a warning that counts the rest."""
    with ThreadPoolExecutor(threads) as pool:
        good = np.array(list(pool.map(_readable, paths)), bool)
    if good.all():
        return paths, labels
    warnings.warn(
        f"skipped {int((~good).sum())} of {len(paths)} pictures that cannot be read, "
        f"the first: {paths[int(np.argmin(good))]}",
        stacklevel=3,
    )
    for label, name in enumerate(class_names):
        if not good[labels == label].any():
            raise ValueError(f"no picture of the class {name} can be read")
    return [path for path, keep in zip(paths, good, strict=True) if keep], labels[good]


def image_folder(
    folder,
    image_size,
    channels=3,
    batch_size=128,
    *,
    flip=False,
    seed=0,
    validation_fraction=0.0,
    drop_remainder=True,
    on_error="raise",
    threads=8,
):
    """Batches of the pictures in a folder for each class.

    Every folder in it is a class; the classes are numbered in the order of their names. Pictures
    (png, jpg, jpeg, bmp, gif, webp) may lie deeper inside; hidden files are ignored. Files are
    listed now and opened when their batch is asked for.

    Args:
        folder: FOLDER of FOLDER/CLASS/PICTURE.png.
        image_size: (H, W) to which every picture is resized and cut, or one integer for both.
        channels: 3 for colour, 1 for grey.
        batch_size: images in a batch.
        flip: whether a picture is mirrored left to right at random.
        seed: integer for the orders, the flips and the split.
        validation_fraction: share of every class that is kept apart for validation.
        drop_remainder: whether the last batch is left out when smaller; never of the validation.
        on_error: "raise": a broken picture raises when its batch is asked for. "skip": every
            picture is decoded once now, and those that fail are left out with a warning; this
            costs about what one epoch costs to read, and leaves the batches as reproducible.
        threads: how many pictures are read at once.

    Returns:
        `ImageBatches`, with the folder names as `class_names`; or, where validation_fraction > 0,
        `(train, validation)`, the second neither shuffled nor flipped.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is empty, has fewer than two class folders, a class without a picture,
            or on an argument out of its range.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            "validation_fraction must be at least 0 and below 1. "
            f"Received: validation_fraction={validation_fraction}"
        )
    class_names, paths, labels = list_classes(pathlib.Path(folder))
    files = ImageFiles(paths, image_size, channels)
    if on_error == "skip":
        paths, labels = _without_unreadable(class_names, paths, labels, threads)
        files = ImageFiles(paths, image_size, channels)
    shared = {"batch_size": batch_size, "class_names": class_names, "threads": threads}
    moving = {"flip": flip, "seed": seed, "drop_remainder": drop_remainder}
    if validation_fraction == 0:
        return ImageBatches(files, labels, **shared, **moving)
    train, rest = split_indices(labels, 1 - validation_fraction, seed)
    still = {"shuffle": False, "drop_remainder": False}
    return (
        ImageBatches(files.subset(train), labels[train], **shared, **moving),
        ImageBatches(files.subset(rest), labels[rest], **shared, **still),
    )
