"""Images in folders: a folder for each class, or all in one."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_dit import images, notices
from keras_dit.datasets.batches import ImageBatches, batches_of
from keras_dit.datasets.buckets import best_size
from keras_dit.datasets.listing import list_folder
from keras_dit.datasets.parts import Contents, divide

__all__ = [
    "ImageFiles",
    "checked_size",
    "checked_sizes",
    "decoded_whole",
    "image_folder",
    "read_folder",
]


Sizes = int | tuple[int, int] | Sequence[tuple[int, int]]


def checked_sizes(image_size: Any) -> tuple[tuple[int, int], ...]:
    """One or more image sizes, each (H, W), or one integer for both sides; or ValueError."""
    if np.ndim(image_size) < 2:
        return (checked_size(image_size),)
    return tuple(dict.fromkeys(map(checked_size, image_size)))


def checked_size(image_size: Any) -> tuple[int, int]:
    """An image size given as (H, W), or as one integer for both, as a tuple; or ValueError."""
    size = (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(side is None or side != int(side) or side < 1 for side in size):
        raise ValueError(
            "image_size must be (H, W), or one integer, of at least 1. "
            f"Received: image_size={image_size}"
        )
    height, width = size
    return int(height), int(width)


class ImageFiles:
    """A sequence of images that are read when they are asked for.

    An image is halved with a box filter while it stays large enough, resized by a bicubic filter
    to cover image_size, and cut at the centre, as in ADM and DiT (`keras_dit.images.read`).

    Args:
        paths: the files.
        image_size: (H, W), or one integer for both; or a list of several (H, W), of which each
            image is read at the one that shows most of it. For that the head of each file is read.
        channels: 3 for colour, 1 for grey.
        draft: whether the decoder of a JPEG may make it smaller, as for `keras_dit.images.read`.
        buckets: which of several sizes each image has, ints (N,); None: to be found out.

    Attributes:
        shape: (N, H, W, C), without decoding a file; of several sizes the first.
        image_sizes: all of them, (H, W) each.
        buckets: ints (N,), or None of one size.

    Raises:
        ValueError: on an argument out of its range.
        OSError: on reading an image that is missing or broken; the message names the file.

    Example:

    >>> import keras_dit
    >>> files = keras_dit.datasets.ImageFiles(["a.png", "b.jpg"], image_size=(64, 96))
    >>> files.shape
    (2, 64, 96, 3)
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike],
        image_size: Sizes,
        channels: int = 3,
        draft: bool = False,
        buckets: np.ndarray | None = None,
    ):
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3. Received: channels={channels}")
        self.paths, self.channels, self.draft = list(paths), channels, bool(draft)
        self.image_sizes = checked_sizes(image_size)
        self.image_size = self.image_sizes[0]
        self.buckets = buckets
        if buckets is None and len(self.image_sizes) > 1:
            self.buckets = _best_sizes(self.paths, self.image_sizes)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C), from the arguments alone."""
        return (len(self.paths), *self.image_size, self.channels)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image index, uint8 (H, W, C)."""
        size = self.image_size if self.buckets is None else self.image_sizes[self.buckets[index]]
        return images.read(self.paths[index], size, self.channels, self.draft)

    def subset(self, indices: Iterable[int]) -> "ImageFiles":
        """The images of these indices, in their order, as another sequence."""
        indices = list(indices)
        paths = [self.paths[i] for i in indices]
        buckets = None if self.buckets is None else self.buckets[indices]
        return ImageFiles(paths, self.image_sizes, self.channels, self.draft, buckets)

    def without_small(self, count: int) -> "ImageFiles":
        """The same images, without the sizes that fewer of them have than so many, but at best."""
        if self.buckets is None:
            return self
        sizes = np.bincount(self.buckets, minlength=len(self.image_sizes))
        rarest = int(np.argmin(sizes))
        if sizes[rarest] >= count:
            return self
        left = [size for i, size in enumerate(self.image_sizes) if i != rarest]
        return self.at(left).without_small(count)

    def at(self, sizes: Any) -> "ImageFiles":
        """The same images at other sizes."""
        return ImageFiles(self.paths, sizes, self.channels, self.draft)


def _best_sizes(paths, sizes):
    """Which of the sizes each file is read at; one that cannot be read at the first."""

    def best(path):
        try:
            return best_size(images.size(path), sizes)
        except OSError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        return np.array(list(pool.map(best, paths)), int)


def decoded_whole(contents: Any) -> Any:
    """Images of one size without drafts, for what is kept or compared; others as they are."""
    if not getattr(contents, "draft", False) and getattr(contents, "buckets", None) is None:
        return contents
    return ImageFiles(contents.paths, contents.image_size, contents.channels)


def _readable(path):
    try:
        images.read(path)
    except OSError:
        return False
    return True


def _without_unreadable(contents, threads):
    """What is left when every image was decoded once; what is left out is counted in a note."""
    paths = contents.images.paths
    with ThreadPoolExecutor(threads) as pool:
        good = np.array(list(pool.map(_readable, paths)), bool)
    if good.all():
        return contents
    for label, name in enumerate(contents.class_names or ("",)):
        if not good[contents.groups == label].any():
            raise ValueError(
                f"no image {f'of the class {name} ' if name else ''}can be read, for instance "
                f"{paths[int(np.argmax(contents.groups == label))]}"
            )
    note = (
        f"skipped {int((~good).sum())} of {len(paths)} images that cannot be read, "
        f"the first: {paths[int(np.argmin(good))]}"
    )
    return contents.take(np.flatnonzero(good))._replace(notes=(*contents.notes, note))


def read_folder(
    folder: str | os.PathLike,
    image_size: Sizes,
    channels: int = 3,
    *,
    labelled: bool = True,
    on_error: str = "raise",
    threads: int = 8,
    draft: bool = False,
) -> Contents:
    """The images of a folder as `image_folder` takes them, before they are cut into batches."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'. Received: on_error={on_error!r}")
    train, validation, notes = list_folder(folder, labelled)

    def contents(listing):
        files = ImageFiles(listing.paths, image_size, channels, draft)
        said = {} if listing.captions is None else {"text": listing.captions}
        found = Contents(files, listing.labels, listing.class_names, conditions=said)
        return _without_unreadable(found, threads) if on_error == "skip" else found

    found, apart = contents(train), None if validation is None else contents(validation)
    said = (*notes, *found.notes, *(() if apart is None else apart.notes))
    return found._replace(validation=apart, notes=said)


def image_folder(
    folder: str | os.PathLike,
    image_size: Sizes,
    channels: int = 3,
    batch_size: int = 128,
    *,
    flip: bool = False,
    seed: int = 0,
    validation_fraction: float = 0.0,
    drop_remainder: bool = True,
    on_error: str = "raise",
    threads: int = 8,
    draft: bool = False,
) -> ImageBatches | tuple[ImageBatches, ImageBatches]:
    """Batches of the images in a folder. `load` takes one too, and more kinds of data.

    Every folder in it is a class; the classes are numbered in the order of their names. Images
    may lie deeper inside, and be symbolic links. A folder that holds images and no folders of
    them has no classes. Where its folders are `train/`, `val/` and `test/`, the first two are
    for training and validation. Every format that Pillow decodes is read; what is left out is
    counted and named in a warning. Files are listed now and opened when their batch is asked for.
    With metadata.jsonl or metadata.csv, of file_name and text, images have captions instead of
    classes, in the batches as "text". Where there are no classes, a .txt beside each image is its
    caption.

    Args:
        folder: FOLDER of FOLDER/CLASS/IMAGE.png, or of FOLDER/IMAGE.png.
        image_size: (H, W) to which every image is resized and cut, or one integer for both; or a
            list of several (H, W), of which each image has the one that shows most of it: batches
            are of one size each.
        channels: 3 for colour, 1 for grey.
        batch_size: images in a batch.
        flip: whether an image is mirrored left to right at random.
        seed: integer for the orders, the flips and the split.
        validation_fraction: share of every class that is kept apart for validation.
        drop_remainder: whether the last batch is left out when smaller; never of the validation.
        on_error: "raise": a broken image raises when its batch is asked for. "skip": every
            image is decoded once now, and those that fail are left out with a warning; this
            costs about what one epoch costs to read, and leaves the batches as reproducible.
        threads: how many images are read at once.
        draft: whether the decoder of a JPEG that is much larger than image_size makes it smaller,
            which is quicker, and not to the last level the same: `keras_dit.images.read`.

    Returns:
        `ImageBatches`, with the folder names as `class_names`; or, where validation_fraction > 0,
        `(train, validation)`, the second neither shuffled nor flipped.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, a class without an image, it is unclear what it holds,
            or on an argument out of its range.

    Example:

    >>> import keras_dit, tempfile
    >>> folder, (digits, _) = tempfile.mkdtemp(), keras_dit.datasets.load_digits()
    >>> for i in range(6):
    ...     keras_dit.images.save_png(f"{folder}/{'even' if i % 2 else 'odd'}/{i}.png", digits[i])
    >>> batches = keras_dit.datasets.image_folder(folder, image_size=8, batch_size=2)
    >>> batches.class_names, batches.input_shape, len(batches)
    (('even', 'odd'), (8, 8, 3), 3)
    """
    found = read_folder(
        folder, image_size, channels, on_error=on_error, threads=threads, draft=draft
    )
    found = divide(found, validation_fraction, seed, "validation_fraction")
    for note in found.notes:
        notices.warn(note)
    batches = batches_of(
        found, batch_size, flip=flip, seed=seed, drop_remainder=drop_remainder, threads=threads
    )
    return (batches, batches.validation) if validation_fraction else batches
