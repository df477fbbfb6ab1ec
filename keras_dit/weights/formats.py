"""The formats that are known, and what is done with any of them."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_dit.codecs import Autoencoder, AutoencoderKL, AutoencoderTiny
from keras_dit.networks import DiTModel
from keras_dit.networks.presets import OPENERS
from keras_dit.notices import warn
from keras_dit.registry import Opener
from keras_dit.weights import autoencoders, facts
from keras_dit.weights.diffusers import Diffusers
from keras_dit.weights.facebook_dit import FacebookDiT
from keras_dit.weights.format import Format, Formats
from keras_dit.weights.jit import JiT
from keras_dit.weights.source import Source

FORMATS = Formats()


def register(name: str, format: Format) -> Format:
    """Make a format known. The last one registered is the first that is asked about a file.

    Args:
        name: what `export` calls it.
        format: a `Format`.

    Raises:
        ValueError: if it is none, or the name is taken.
    """
    return FORMATS.register(name, format)


register("facebook_dit", FacebookDiT())
register("diffusers", Diffusers())
register("jit", JiT())


def titles() -> str:
    """What can be loaded, in words, for a person who asks."""
    return FORMATS.titles()


def open_source(path: str | os.PathLike | Source) -> Source:
    """The `Source` of a file, a folder or `hf://owner/name`: what it says, no numbers read yet.

    A `Source` is given back as it is.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for anything but weights of a known format.
    """
    if isinstance(path, Source):
        return path
    return FORMATS.open(path)


def load(path: str | os.PathLike | Source, **overrides: Any) -> DiTModel:
    """The network of published weights, of any known format.

    The format is found by the content. Tensors are read one after the other, so that loading
    takes little more memory than the network; no code in a file is run.

    Args:
        path: a file, a folder or `hf://owner/name`.
        **overrides: arguments of `DiTModel` that the weights leave open, such as dtype, remat or
            label_dropout; num_heads where the file does not say it; a rectangular input_shape;
            num_classes if the network was trained without label dropout. And those for other
            data: num_classes, input_shape, patch_size, learned_variance, output_channels and
            conditions make of it, by `adapt.resize`, a network to be trained further. So do
            class_names, names of the classes it is for, by which the file's are kept, and keep
            and say as there.

    Returns:
        A `DiTModel`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is broken, holds something else, or contradicts an argument.

    Example:

    ```python
    network = keras_dit.weights.load("DiT-XL-2-256x256.pt", dtype="mixed_bfloat16")
    ```

    Example:

    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 4), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10)
    >>> export(network, "dit.pt")  # as facebookresearch/DiT saves them
    >>> load("dit.pt").num_classes
    10
    >>> load("dit.pt", num_classes=4).num_classes
    classes: 4 of 4 kept, by number: 0, 1, 2, 3
    4
    """
    return open_source(path).network(**overrides)


def suffixes() -> list[str]:
    """Of the files that the formats write, without the folders."""
    found = [suffix for format in FORMATS.values() for suffix in format.suffixes if suffix]
    return list(dict.fromkeys(found))


def format_of_target(path: str | os.PathLike) -> str:
    """The name of the format that a file of that suffix, or a folder, is written in.

    Raises:
        ValueError: if no format writes such files.
        ImportError: if it takes a library that is not installed.
    """
    suffix = pathlib.Path(path).suffix
    for name, format in FORMATS.items():
        if suffix in format.suffixes:
            format.check(path)
            return name
    raise ValueError(f"it must end in {' or '.join(suffixes())}, or be a folder. Received: {path}")


def export(
    network: DiTModel,
    path: str | os.PathLike,
    format: str = "facebook_dit",
    *,
    class_names: Sequence[str] | None = None,
    **process: Any,
) -> None:
    """Write a network for the original program, which loads it strictly. Weights become float32.

    What the original program does not ask for travels where it does not look: the process, the
    names of the classes, and what no tensor's shape says, such as the number of heads. `load`
    and `from_preset` find it there.

    Args:
        network: a `DiTModel`. Adapters (LoRA) are merged into its weights, with a warning. Or an
            autoencoder, as a codec or alone: for one only `path` and `format` count, a name of
            `weights.autoencoders.AUTOENCODERS`, such as "diffusers".
        path: "facebook_dit": a file, .safetensors by that suffix, else as .pt. "diffusers": a
            folder.
        format: a name of `FORMATS`.
        class_names: names of the classes, in their order.
        **process: arguments of `Diffusion` that belong to these weights: process, or schedule,
            prediction, objective; codec. An autoencoder joins the folder of "diffusers". What is
            else not of numbers and text alone stays behind with a warning.

    Raises:
        ValueError: for an unknown format or a network that it cannot hold.
        ImportError: if the format takes a library that is not installed.

    Example:

    ```python
    keras_dit.weights.export(
        diffusion.sampling_network(), "digits.pt",
        schedule=diffusion.schedule, prediction=diffusion.prediction)
    ```

    Example:

    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 4), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10)
    >>> export(network, "dit.safetensors", process=keras_dit.processes.named("flow"))
    >>> keras_dit.Diffusion.from_preset("dit.safetensors").schedule
    RectifiedFlow(shift=1.0)
    """
    if isinstance(network, (Autoencoder, AutoencoderKL, AutoencoderTiny)):
        autoencoders.export(network, path, format)
        return
    if not isinstance(network, DiTModel):
        raise ValueError(f"network must be a DiTModel. Received: {network!r}")
    chosen = FORMATS.named(format)
    chosen.check(path)
    codec = process.get("codec")
    if chosen.autoencoder and isinstance(codec, Autoencoder):
        process = {name: part for name, part in process.items() if part is not codec}
        autoencoders.export(codec, pathlib.Path(path) / chosen.autoencoder)
    if chosen.keeps_facts:
        chosen.export(network, path, facts.of(network, process, class_names))
        return
    if process or class_names:
        warn(
            f"the format {format} keeps neither process nor class names: whoever loads {path} has "
            "to give them"
        )
    chosen.export(network, path)


OPENERS.register("weights", Opener(lambda preset: _is_path(preset), load))


def _is_path(preset):
    """Whether it is the name of a file or folder, or that of something on the hub."""
    if isinstance(preset, (Source, os.PathLike)):
        return True
    return "/" in str(preset) or os.path.exists(preset) or pathlib.Path(preset).suffix != ""
