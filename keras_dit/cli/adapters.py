"""--lora: how a run trains adapters, and which of them a MODEL wears."""

import argparse
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from keras_dit import adapt, backend, files
from keras_dit.adapt import adapter_files
from keras_dit.adapt.lora import BLOCKS, words
from keras_dit.cli import options
from keras_dit.diffusion import Diffusion
from keras_dit.networks import Network
from keras_dit.networks.naming import has_adapters, of_weights
from keras_dit.serialization import load_model
from keras_dit.weights.files import some

__all__ = [
    "FILE",
    "Worn",
    "add_training",
    "begin",
    "check",
    "keep",
    "new_parts",
    "of_file",
    "parsed",
    "resumed",
    "worn",
]

BELOW = "below.keras"  # in a run's folder: the network that its adapters are on
FILE = "lora.safetensors"  # in a run's folder: the average of its adapters


def add_training(group: Any) -> None:
    """The options of a run that trains adapters."""
    add = group.add_argument
    rank = "train adapters (LoRA) of that rank, such as 16, and leave the weights as they are"
    add("--lora", type=options.count, metavar="RANK", help=rank)
    which = "of the layers with adapters; default: attention and MLP of each block"
    add("--lora-pattern", metavar="PATTERN", help=which)
    alpha = "what is added is times ALPHA / RANK; default: RANK"
    add("--lora-alpha", type=options.positive_number, metavar="ALPHA", help=alpha)
    whole = "of weights that train as they are beside them; default: what is new to the data"
    add("--lora-whole", metavar="PATTERN", help=whole)


def check(settings: argparse.Namespace) -> None:
    """Raise ValueError for options of adapters that go without what they are for."""
    for name in ("lora_pattern", "lora_alpha", "lora_whole"):
        if getattr(settings, name) is not None and not settings.lora:
            raise ValueError(f"{options.spelled(name)} is for adapters: give --lora RANK too")
    if settings.lora and settings.averages:
        raise ValueError("--averages keeps snapshots of whole networks: leave it out with --lora")
    if settings.lora and settings.freeze:
        raise ValueError("--lora leaves all weights as they are: leave out --freeze")
    if settings.lora and not settings.source:
        raise ValueError("--lora is for a trained network: give it by --from MODEL")


def new_parts(
    network: Network, changes: Mapping[str, Any], class_names: Sequence[Any]
) -> str | None:
    """The pattern of the weights that are new to the data, which train whole beside the adapters.

    Args:
        network: the new one.
        changes: what of the old one has changed, as for `adapt.resize`.
        class_names: names of the classes before and after, or None where they are not known.
    """
    before, after = class_names
    parts = [f"{name}/" for name in changes.get("conditions", ())]
    parts += ["cross_attention/"] if parts else []
    if "num_classes" in changes or (before and after and list(before) != list(after)):
        parts.append("label/")
    if {"patch_size", "input_shape", "learned_variance"} & set(changes):
        parts += ["patches/", "final/projection/"]
    there = [part for part in parts if any(re.search(part, name) for name in of_weights(network))]
    return "|".join(there) or None


def begin(
    model: Diffusion,
    settings: argparse.Namespace,
    changes: Mapping[str, Any],
    class_names: Sequence[Any],
    folder: pathlib.Path | None,
) -> str:
    """Put adapters on the network of a new run, and keep what is below them; a sentence on it.

    Args:
        model: of the run.
        settings: the options of `train`, which then say what trains whole.
        changes, class_names: as for `new_parts`.
        folder: of the run; None: another process keeps it.
    """
    if settings.lora_whole is None:
        settings.lora_whole = new_parts(model.network, changes, class_names)
    if folder is not None:
        with backend.alone(), files.beside(folder / BELOW) as new:
            model.network.save(new)
    _add(model.network, settings)
    whole = f"; whole: {settings.lora_whole}" if settings.lora_whole else ""
    return f"lora: {words(model.network)}{whole}"


def _add(network, settings):
    pattern = settings.lora_pattern or BLOCKS
    try:
        adapt.add_lora(network, settings.lora, pattern, settings.lora_alpha, settings.lora_whole)
    except ValueError as error:
        raise ValueError(f"--lora: {error}") from None


def resumed(model: Diffusion, settings: argparse.Namespace, folder: pathlib.Path) -> Diffusion:
    """The model of a run as it was set up, with the weights below its adapters, and these."""
    if getattr(settings, "lora", None):
        model.network.set_weights(load_model(folder / BELOW).get_weights())
        _add(model.network, settings)
    return model


def keep(model: Diffusion, folder: pathlib.Path) -> None:
    """Write the adapters that the model samples with into the run's folder, if it has some."""
    if has_adapters(model.network):
        values, names = model.denoiser().values, model.class_names
        adapt.save_lora(model.network, folder / FILE, values, class_names=names)


# A MODEL


def parsed(text: str) -> tuple[str, float]:
    """FILE or FILE:WEIGHT as the file and the weight."""
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and path else (text, 1.0)
    except ValueError:  # a colon of the path's own
        return text, 1.0


class Worn(NamedTuple):
    """A network with adapters.

    Attributes:
        network: of the classes that the adapters were trained on.
        class_names: their names, or None where the files say nothing of them.
        words: which adapters they are.
    """

    network: Network
    class_names: tuple[str, ...] | None
    words: str


def worn(network: Network, given: Sequence[tuple[str, float]]) -> Worn:
    """Put adapters on a network.

    Args:
        network: that samples. Where a file was trained on another number of classes, a copy for
            these takes its place.
        given: what `parsed` made of each.
    """
    paths, names = [path for path, _ in given], None
    for path in paths:
        table = adapter_files.read(path, network).whole.get("label/table")
        if table is not None:
            names = adapter_files.class_names(path)
            if network.num_classes != len(table) - 1:
                network = adapt.resize(network, num_classes=len(table) - 1, say=None)
    adapt.load_lora(network, paths, [weight for _, weight in given])
    words = (path if weight == 1 else f"{weight:g} x {path}" for path, weight in given)
    return Worn(network, names, " and ".join(words))


def of_file(path: str) -> Iterator[str]:
    """What a file of adapters holds, a line each."""
    layers, whole = adapter_files.contents(path)
    ranks = sorted({(adapter.rank, adapter.alpha) for adapter in layers.values()})
    said = ", ".join(f"{rank} (alpha {alpha:g})" for rank, alpha in ranks)
    yield f"{path}: adapters (LoRA) of rank {said}"
    yield f"layers    {len(layers)}: {some(layers, 6)}"
    if whole:
        yield f"whole     {some(whole, 6)}"
    count = sum(adapter.a.size + adapter.b.size for adapter in layers.values())
    yield f"          {count + sum(array.size for array in whole.values()):,} parameters"
