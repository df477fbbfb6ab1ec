"""Latents of a whole data set, made once and kept in a folder.

Batch i holds the images i·B … (i + 1)·B − 1, also where an encoding goes on, so that the files are
the same byte for byte whether it was stopped or not.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from keras import tree

from keras_dit import backend
from keras_dit.codecs.autoencoder import Autoencoder
from keras_dit.datasets import ImageBatches, ImageFiles, LatentFacts, LatentFiles, LatentWriter
from keras_dit.datasets.ahead import Ahead
from keras_dit.datasets.folders import decoded_whole
from keras_dit.datasets.latents import VALIDATION
from keras_dit.datasets.writing import posteriors_of_a_file
from keras_dit.progress import Bar

__all__ = ["cache_latents"]

DTYPE = "float16"  # its rounding is far below what the posterior draws: docs/latents.md


def cache_latents(
    codec: Autoencoder,
    data: ImageBatches,
    folder: str | os.PathLike,
    *,
    flips: bool = False,
    batch_size: int = 32,
    path: str = "",
    source: str = "",
    verbose: bool = False,
) -> LatentFacts:
    """Encode images once, for `datasets.cached_latents`. Stopped, it goes on where it was.

    Args:
        codec: whose `posterior` is kept.
        data: as `datasets.load` gives it; all of its images are encoded once, those for validation
            too, in their own order. Those of several sizes come into a folder for each size.
        folder: to write to: a new one, or one that was begun with the same images and codec.
        flips: whether each image is encoded mirrored too, for the flips of a training.
        batch_size: images that are encoded at once.
        path: of the autoencoder's file, by which a training finds it again.
        source: what the images are, for people.
        verbose: whether to show a progress bar.

    Returns:
        The `LatentFacts` of the folder, with the statistics of its latents; of several sizes
        those of the first.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if it was begun with something else, or the images do not fit the codec.
        OSError: if an image cannot be read, or the folder not be written to.

    Example:

    ```python
    codec = keras_dit.codecs.Autoencoder.from_preset("ae.keras")
    photos = keras_dit.datasets.load("photos", image_size=256)
    keras_dit.codecs.cache_latents(codec, photos, "latents", flips=True, path="ae.keras")
    ```
    """
    if isinstance(data.images, LatentFiles):
        raise ValueError(f"the data has to be images. Received: latents, {data.images.folder}")
    folder = pathlib.Path(folder)
    parts = {}
    for place, part in zip(_places(folder, data), data.of_each_size(), strict=True):
        parts[place] = part
        if part.validation is not None:
            parts[place / VALIDATION] = part.validation
    path = os.path.abspath(path) if os.path.exists(path) else str(path)  # or it is an address
    made = {"path": path, "identity": codec.identity}
    made |= {name: np.asarray(getattr(codec, name)).tolist() for name in ("scale", "shift")}
    if backend.helps():
        _help(codec, [*reversed(parts.values())], flips, batch_size)
    writers = {
        place: LatentWriter(
            place, _facts(codec, part, flips, made, source), part.labels, _others(part)
        )
        for place, part in parts.items()
    }
    total = sum(writer.facts.count for writer in writers.values())
    done = sum(writer.done for writer in writers.values())
    with Bar(
        total=total, initial=done, desc="encoding", first="compiling", disable=not verbose
    ) as bar:
        # What is kept apart first: the folder is whole when its own images are.
        for place, part in reversed(parts.items()):
            with writers[place] as writer:
                for posteriors in _posteriors(codec, part, flips, batch_size, writer.done):
                    writer.append(posteriors)
                    bar.update(len(posteriors))
    return writers[next(iter(parts))].facts


def _places(folder, data):
    """The folder, or one in it for each of several sizes, in their order."""
    if len(data.image_sizes) == 1:
        return [folder]
    sizes = [one.input_shape[:2] for one in data.of_each_size()]
    return [folder / f"{i}-{height}x{width}" for i, (height, width) in enumerate(sizes)]


def _help(codec, parts, flips, batch_size):
    """Encode a share of the batches for the process that leads, which writes them."""
    for part in parts:
        with backend.helping():
            for _ in _posteriors(codec, part, flips, batch_size, 0):
                pass
    raise backend.ShareDone


def _facts(codec, data, flips, made, source):
    height, width, channels = codec.sample_shape(data.input_shape)
    if codec.data_shape((height, width, channels)) != tuple(data.input_shape):
        raise ValueError(
            f"images must have sides that are multiples of {codec.network.factor}, and "
            f"{codec.network.in_channels} channels. Received: {data.input_shape}"
        )
    shape = (height, width, 2 * channels)
    return LatentFacts(
        count=len(data.images),
        shape=shape,
        image_shape=data.input_shape,
        dtype=DTYPE,
        shard=posteriors_of_a_file(shape, 1 + flips, DTYPE),
        flips=flips,
        class_names=data.class_names,
        autoencoder=made,
        source={"data": source, "digest": _digest(data)},
    )


def _others(data):
    """What is known of each image beside its label."""
    return {name: values for name, values in data.conditions.items() if name != "label"}


def _digest(data):
    """What tells other images apart: what is known of them, and the files' names or two images."""
    images, digest = data.images, hashlib.sha256()
    if data.labels is not None:
        digest.update(data.labels.tobytes())
    for part in tree.flatten(_others(data)):
        digest.update(np.asarray(part).tobytes())
    if isinstance(images, ImageFiles):
        top = os.path.commonpath(list(map(os.path.dirname, images.paths)))
        for path in images.paths:
            digest.update(os.path.relpath(path, top).encode() + b"\0")
    else:
        for image in (images[0], images[len(images) - 1]):
            digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:16]


def _posteriors(codec, data, flips, batch_size, done) -> Iterator[np.ndarray]:
    """(n, 1 or 2, h, w, 2c) of the images from `done` on, a batch at a time."""
    still = ImageBatches(
        decoded_whole(data.images),  # a folder that was begun so goes on so
        batch_size=min(batch_size, len(data.images)),
        shuffle=False,
        drop_remainder=False,
        threads=data.threads,
        value_range=data.value_range,
    )
    first, skipped = divmod(done, still.batch_size)
    indices = range(first, len(still) if done < len(data.images) else first)
    step = backend.members()  # between two batches that this process encodes

    def following(index):
        return index + step if index + step < len(still) else None

    read = Ahead(lambda index: still.batch(0, index), following, count=1)

    def encode(index):
        (images,) = read(index)
        forms = (images, images[:, :, ::-1]) if flips else (images,)
        # A last, smaller batch is filled up, so that it needs no program of its own.
        lacking = [(0, still.batch_size - len(images)), (0, 0), (0, 0), (0, 0)]
        made = [codec.posteriors(np.pad(form, lacking, mode="edge")) for form in forms]
        return np.stack(made, 1)[: len(images)]

    for posteriors in backend.shared(encode, indices):
        yield posteriors[skipped:]
        skipped = 0
