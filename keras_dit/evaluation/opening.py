"""Feature extractors by name, by file or by address."""

import os
import pathlib
from typing import Any

from keras_dit.evaluation import classifier, storage
from keras_dit.evaluation.features import Features, Network, Pixels
from keras_dit.evaluation.inception import Inception
from keras_dit.registry import Registry, nearest_first
from keras_dit.serialization import load_model

__all__ = ["FEATURES", "open_features"]


def _pixels(data, folder, verbose):
    return Pixels()


# (data, folder, verbose) -> Features, where data are the labelled `ImageBatches` of the reference.
FEATURES = Registry("features", {"pixels": _pixels, "classifier": classifier.features})


def open_features(
    what: str | os.PathLike,
    data: Any = None,
    folder: pathlib.Path | None = None,
    verbose: bool = False,
) -> Features:
    """The feature extractor of that name.

    Args:
        what: a name of `FEATURES`; the file of Inception's weights, `.pth` or `.safetensors`; a
            `.keras` file of any model of images in [−1, 1]; or the address of one of these, which
            is fetched once and has to say its SHA-256.
        data: real images with labels, `ImageBatches`, for what is trained on them.
        folder: where what is fetched or trained is kept; None: the `storage.cache_folder`.
        verbose: whether to show progress.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for anything else, or a file that holds something else.

    Example:

    >>> open_features("pixels").name
    'pixels'
    """
    if str(what) in FEATURES:
        return FEATURES[str(what)](data, folder, verbose)
    if str(what).startswith(("https://", "http://")):
        what = storage.fetched(str(what), folder)
    path = pathlib.Path(what)
    if path.suffix == ".keras" and path.is_file():
        model = load_model(path, compile=False)
        return Network(model, name=path.stem, digest=storage.sha256_of(path))
    if path.suffix in (".pth", ".pt", ".safetensors"):
        return Network(Inception.from_file(path), digest=storage.sha256_of(path))
    if path.exists():
        raise ValueError(f"features are of a .pth, .safetensors or .keras file. Received: {path}")
    raise ValueError(
        f"features must be one of {', '.join(nearest_first(what, FEATURES))}, or an existing file, "
        f"or an address. Received: {str(what)!r}"
    )
