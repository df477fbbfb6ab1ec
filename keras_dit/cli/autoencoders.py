"""The codec of a training: the autoencoder that is named, or that made the latents."""

import os
from collections.abc import Iterator

import numpy as np

from keras_dit.cli.common import counted
from keras_dit.codecs import Autoencoder, Codec, Pixels
from keras_dit.datasets import ImageBatches, LatentFacts, LatentFiles
from keras_dit.training import checks

__all__ = ["codec_for", "of_codec", "of_latents", "words"]


def codec_for(path: str | None, data: ImageBatches) -> Codec:
    """What stands between the data and the network.

    Args:
        path: of an autoencoder; None: that of the latents, or none for images.
        data: what is trained on.

    Raises:
        FileNotFoundError: if the autoencoder of the latents is not where it was.
        ValueError: if the latents are of another autoencoder.
    """
    if not isinstance(data.images, LatentFiles):
        return Pixels() if path is None else Autoencoder.from_preset(path)
    path = path or _path_of(data.images)
    codec = Autoencoder.from_preset(path)
    checks.latents(data.images, codec)
    return codec


def _path_of(files):
    path = files.facts.autoencoder.get("path", "")
    if not path or ("://" not in path and not os.path.exists(path)):
        where = f" is not at {path} any more" if path else " has no path there"
        raise FileNotFoundError(
            f"the autoencoder that made the latents in {files.folder}{where}: give --autoencoder"
        )
    return path


def words(data: ImageBatches, codec: Codec) -> str:
    """What the network sees, for a person: images, or latents of them."""
    height, width, channels = getattr(data.images, "image_shape", data.input_shape)
    colour = "grey" if channels == 1 else "colour"
    seen = f"{height}x{width}, {colour}"
    if len(getattr(data, "image_sizes", ())) > 1:
        each = zip(data.image_sizes, np.bincount(data.images.buckets), strict=True)
        factor = height // data.input_shape[0]  # of latents
        sizes = (f"{h * factor}x{w * factor} ({count:,})" for (h, w), count in each)
        seen = f"{', '.join(sizes)}, {colour}"
    if isinstance(codec, Autoencoder):
        latent = "x".join(map(str, codec.sample_shape(data.input_shape)))
        kept = "kept" if isinstance(data.images, LatentFiles) else "made in each step"
        seen += f", as latents of {latent}, {kept}"
    return seen


def of_codec(codec: Autoencoder, sample_shape: tuple[int, ...]) -> Iterator[str]:
    """What `info` says of the images of a model of latents, a line each."""
    latents, network = _sides(sample_shape), codec.network
    yield f"images    {_sides(codec.data_shape(sample_shape))}, from latents of {latents}"
    yield f"          by the autoencoder {codec.identity}, {network.count_params():,} parameters"
    yield f"          latents: scale {_numbers(codec.scale)}, shift {_numbers(codec.shift)}"


def of_latents(folder: str) -> Iterator[str]:
    """What `info` says of a folder of latents, a line each."""
    facts = LatentFacts.read(folder)
    mirrored = ", each mirrored too" if facts.flips else ""
    names, made = facts.class_names, facts.autoencoder
    height, width, channels = facts.shape
    yield f"{folder}: latents of {facts.source.get('data') or 'images'}"
    yield f"images    {facts.done:,} of {facts.count:,}, {_sides(facts.image_shape)}{mirrored}"
    yield f"latents   {_sides((height, width, channels // 2))}, {facts.dtype}"
    yield f"classes   {'none' if names is None else len(names)}"
    yield f"by        {made.get('path')}, {made.get('identity')}"
    if facts.deviation:
        yield f"mean      {_numbers(facts.mean)}, before scale and shift"
        yield f"deviation {_numbers(facts.deviation)}"


def _sides(shape):
    height, width, channels = shape
    return f"{height} x {width}, {counted(channels, 'channel')}"


def _numbers(value):
    return f"{value:.4g}" if isinstance(value, float) else ", ".join(f"{v:.4g}" for v in value)
