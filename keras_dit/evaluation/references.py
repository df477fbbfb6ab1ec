"""What images are compared with: real images, or statistics that were published.

    a data set or a folder      as `keras_dit.datasets.load` names them, same crop as in training
    .npz with arr_0             images, uint8, as the batches of ADM
    .npz with mu and sigma      moments of Inception's features, as those of ADM, DiT and JiT;
                                mu_s and sigma_s of the spatial ones, where they are there

Statistics of images are kept and used again while nothing of what they were made of has changed:
the files with their sizes and times, or the bytes of the array; the size and the crop; the
features. The images are taken in a random but fixed order, so that the features that are kept of
the first ones are a fair share.
"""

import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from keras_dit import datasets, notices
from keras_dit import images as pixels
from keras_dit.datasets import ImageBatches, ImageFiles
from keras_dit.datasets.folders import decoded_whole
from keras_dit.evaluation import storage
from keras_dit.evaluation.features import Features, digest_of_arrays
from keras_dit.evaluation.moments import Moments
from keras_dit.evaluation.statistics import Statistics
from keras_dit.progress import Bar

__all__ = ["Reference", "facts_of", "is_published", "published", "reference", "summed"]

ADM_CROP = "halved by a box filter while large enough, bicubic to cover the size, cut at the centre"
VERSION = 1  # of what is stored
DIMENSIONS = 2048  # of Inception's "pool"


class Reference(NamedTuple):
    """What images are compared with.

    Attributes:
        statistics: its `Statistics`.
        conditions: what is known of each of its images, by name, such as "label": int (N,).
        facts: what it was made of, for a report.
    """

    statistics: Statistics
    conditions: dict[str, Any]
    facts: dict


def is_published(source: Any) -> bool:
    """Whether a source is an `.npz` file of moments."""
    if isinstance(source, ImageBatches):
        return False
    path = pathlib.Path(source)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    with np.load(path, allow_pickle=False) as stored:
        return {"mu", "sigma"} <= set(stored.files)


def published(path: str | os.PathLike, features: Features) -> Reference:
    """The statistics of a file of moments, and what there is of images beside them.

    Args:
        path: `.npz` with mu (2048,) and sigma (2048, 2048), and perhaps mu_s and sigma_s of the
            spatial features and arr_0, images, whose features serve precision, recall and KID.
        features: Inception's.

    Raises:
        ValueError: for other features, or moments of another size.
    """
    if not features.published:
        raise ValueError(
            f"{path} holds moments of Inception's features: score by these (--features FILE), or "
            f"take images as the reference. Received: the features {features.name}"
        )
    arrays = storage.read_arrays(path)
    images = arrays.get("arr_0")
    statistics = Statistics(0 if images is None else len(images))
    facts: dict[str, Any] = {
        "source": str(path),
        "sha256": storage.sha256_of(path),
        "moments": "as published",
    }
    if images is not None:
        for i in range(0, len(images), 64):
            statistics.add(features(np.ascontiguousarray(images[i : i + 64])))
        facts["images beside them"] = len(images)
    for name, ending in (("pool", ""), ("spatial", "_s")):
        statistics.moments.pop(name, None)
        if f"mu{ending}" in arrays:
            given = Moments.given(arrays[f"mu{ending}"], arrays[f"sigma{ending}"])
            statistics.moments[name] = given
    if statistics.moments["pool"].dimensions != DIMENSIONS:
        raise ValueError(
            f"{path}: mu must be of shape ({DIMENSIONS},), as Inception's features are. "
            f"Received: shape={arrays['mu'].shape}"
        )
    return Reference(statistics, {}, facts)


def reference(
    source: Any,
    features: Features,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    keep: int = 10_000,
    folder: str | os.PathLike | None = None,
    verbose: bool = False,
) -> Reference:
    """The statistics of real images, computed once.

    Args:
        source: as for `keras_dit.datasets.load`, or what that gives; or a file of moments.
        features: a feature extractor, such as `Pixels()` or `Network(inception)`.
        image_size, channels: of a folder of images: those of the images that are scored.
        keep: features kept of the first images, at most.
        folder: where statistics are kept; None: the `storage.cache_folder`.
        verbose: whether to show a progress bar.

    Raises:
        ValueError: for a source that holds no images, or moments of other features.

    Example:

    >>> digits = reference("digits", Pixels(), folder="statistics")
    >>> digits.statistics.count, digits.conditions["label"].tolist()[:3]
    (1797, [0, 1, 2])
    """
    if is_published(source):
        return published(source, features)
    data = source
    if not isinstance(source, ImageBatches):
        data = datasets.load(source, image_size=image_size, channels=channels)
    name = "images" if isinstance(source, ImageBatches) else str(source)
    facts = {"source": name, **facts_of(data)}
    key = _key(facts, features, keep)
    folder = storage.cache_folder() if folder is None else pathlib.Path(folder)
    path = None if key is None else folder / f"reference-{key}.npz"
    if path is not None and path.is_file():
        return Reference(Statistics.restored(storage.read_arrays(path)), data.conditions, facts)
    statistics = summed(data, features, keep, verbose)
    if path is not None:
        try:
            storage.write_arrays(path, statistics.arrays())
        except OSError as error:  # it costs the next one some time, and nothing else
            notices.warn(f"the statistics of {name} are not kept: {error}")
    return Reference(statistics, data.conditions, facts)


def summed(data: ImageBatches, features: Features, keep: int, verbose: bool = False) -> Statistics:
    """The statistics of all images of a data set, in a random but fixed order."""
    order = ImageBatches(
        decoded_whole(data.images),  # others compare with these very pixels
        batch_size=min(64, len(data.images)),
        drop_remainder=False,
        threads=data.threads,
        value_range=data.value_range,
    )
    statistics = Statistics(len(data.images), keep)
    look = {"desc": f"{features.name} of real images", "unit": " images"}
    with Bar(total=len(data.images), disable=not verbose, first="compiling", **look) as bar:
        for i in range(len(order)):
            (images,) = order.batch(0, i)
            statistics.add(features(pixels.to_uint8(images)))
            bar.update(len(images))
    return statistics


def facts_of(data: ImageBatches) -> dict:
    """What a data set is made of: how many images, of which size, and a digest of them."""
    images, (height, width, channels) = data.images, data.input_shape
    facts = {"images": len(images), "size": f"{height}x{width}x{channels}"}
    if not isinstance(images, ImageFiles):
        array = np.asarray(images)
        return {**facts, "crop": "none", "sha256": digest_of_arrays([array])}
    listing = []
    for path in images.paths:
        stat = os.stat(path)
        listing.append([os.path.abspath(path), stat.st_size, stat.st_mtime_ns])
    digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return {**facts, "crop": ADM_CROP, "sha256 of the listing": digest}


def _key(facts, features, keep):
    """What statistics are kept under; None where the features cannot be told from others."""
    if features.digest is None:
        return None
    made_of = [VERSION, facts | {"source": ""}, features.name, features.digest, keep]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]
