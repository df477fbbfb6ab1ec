"""MODEL: a run's folder, a .keras file or weights from elsewhere."""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from keras_dit import processes, weights
from keras_dit.adapt import resize
from keras_dit.cli import adapters, options, recipe, resume
from keras_dit.cli.run_folder import AVERAGES
from keras_dit.codecs import Autoencoder, Codec
from keras_dit.diffusion import Diffusion
from keras_dit.networks.base import QUANTIZATIONS, Network
from keras_dit.registry import nearest_first
from keras_dit.serialization import load_model
from keras_dit.training import checkpoints, posthoc
from keras_dit.training.checkpoints import folder as checkpoint_folder

__all__ = ["DTYPES", "Model", "add_arguments", "add_dtype", "chosen", "in_dtype", "load",
           "sampling", "sized", "snapshots_of"]  # fmt: skip

DTYPES = ("float32", "bfloat16", "float16", *QUANTIZATIONS)


class Model(NamedTuple):
    """What a command works with.

    Attributes:
        diffusion: a `Diffusion` whose `generate` uses the weights that were asked for.
        class_names: names of the classes, or None.
        taken: which weights they are, in words.
    """

    diffusion: Diffusion
    class_names: tuple[str, ...] | None
    taken: str


def add_arguments(command) -> None:
    """What a model may leave open, and which of its weights are taken."""
    add = command.add_argument
    heads = "of the attention, for a file of no published size"
    add("--num-heads", type=options.count, metavar="N", help=heads)
    method = f"how a file that does not say it was trained: {', '.join(processes.NAMED)}"
    add("--method", type=options.one_of(processes.NAMED), metavar="NAME", help=method)
    step = "weights of a run's checkpoint: a number of steps, or best"
    add("--checkpoint", metavar="STEP", help=step)
    add("--raw", action="store_true", help="the raw weights, not their average")
    length = "the average of that length, of a run with --averages; see `keras-dit average`"
    add("--average-std", type=options.numbers, metavar="STD", help=length)
    decoder = "of latents, for a model without one: a folder or file, hf://owner/name"
    add("--autoencoder", metavar="FILE", help=decoder)
    worn = "adapters (LoRA) to put on it, such as pets.safetensors:0.8; may be given several times"
    add("--lora", action="append", type=adapters.parsed, metavar="FILE[:WEIGHT]", help=worn)


def add_dtype(group) -> None:
    """What the network computes in."""
    words = (
        f"what the network computes in, or holds its matrices as: {', '.join(DTYPES)} (default: "
        "what it was trained in)"
    )
    group.add_argument("--dtype", type=options.one_of(DTYPES), metavar="NAME", help=words)


def chosen(arguments: argparse.Namespace) -> dict:
    """What `add_arguments` has asked for, as arguments of `load`."""
    names = ("num_heads", "method", "checkpoint", "raw", "average_std", "autoencoder", "lora")
    return {name: getattr(arguments, name) for name in names}


def load(
    path: str,
    *,
    num_heads: int | None = None,
    method: str | None = None,
    checkpoint: str | None = None,
    raw: bool = False,
    average_std: float | list[float] | None = None,
    at: int | None = None,
    autoencoder: str | None = None,
    lora: Sequence[tuple[str, float]] | None = None,
) -> Model:
    """Open a MODEL.

    Args:
        path: a run's folder, a folder with one .keras file, a .keras file, or what
            `keras_dit.weights` opens.
        num_heads, method: what weights from elsewhere leave open.
        checkpoint: steps of a checkpoint in the run's folder, or "best"; None: the model's file.
        raw: whether the raw weights are taken, not their average.
        average_std: the length of the average that is made of the snapshots of a run; None: the
            model's own average.
        at: updates of the snapshot at which it ends; None: the last.
        autoencoder: what `codecs.Autoencoder.from_preset` opens, in the place of the model's codec.
        lora: files of adapters, and the weight of each.

    Raises:
        FileNotFoundError: if there is no such model, checkpoint, autoencoder or adapter.
        ValueError: if the file holds something else.
    """
    which = checkpoint, raw, average_std, at
    found = _load(path, num_heads, method, which, autoencoder)
    if not lora:
        return found
    old, worn = found.diffusion, adapters.worn(found.diffusion.sampling_network(), lora)
    kept = found.class_names if worn.network.num_classes == old.network.num_classes else None
    names = worn.class_names or kept
    parts = {"process": old.process, "codec": old.codec, "class_names": names}
    taken = f"{found.taken} with the adapters {worn.words}"
    return Model(Diffusion(worn.network, **parts, ema=None), names, taken)


def _load(path, num_heads, method, which, autoencoder):
    checkpoint, raw, average_std, at = which
    codec = None if autoencoder is None else Autoencoder.from_preset(autoencoder)
    folder = pathlib.Path(path)
    file = _keras_file(folder)
    given = {"--checkpoint": checkpoint, "--raw": raw, "--average-std": average_std}
    given = {name: value for name, value in given.items() if value}
    if file is None:
        if given:
            raise ValueError(f"{next(iter(given))} is for runs and .keras files, not {path}")
        return _foreign(path, num_heads, method, codec)
    if method is not None or num_heads is not None:
        raise ValueError(f"{path} says itself how it was made: leave out --method and --num-heads")
    diffusion, taken = _read(file), ""
    if checkpoint is not None:
        found = _checkpoint(folder, checkpoint)
        diffusion = resume.as_trained(diffusion, folder)
        checkpoints.load(diffusion, found, *checkpoints.read(found))
        taken = f" of the checkpoint {found.name}"
    if average_std is not None:
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are different weights: give one")
        diffusion = resume.as_trained(diffusion, folder)
        taken = take_average(diffusion, folder, average_std, at)
    elif raw or diffusion.average is None:
        diffusion, taken = sampling(diffusion, diffusion.network), f"the raw weights{taken}"
    else:
        taken = f"the average of the weights{taken}"
    if codec is not None:
        diffusion = sampling(diffusion, codec=codec)
    return Model(diffusion, diffusion.class_names or _class_names(folder), taken)


def take_average(
    diffusion: Diffusion, run: str | pathlib.Path, std: float | list[float], at: int | None = None
) -> str:
    """Have a model sample with an average that is made of the snapshots of its run.

    Returns:
        Which weights they are, in words.

    Raises:
        FileNotFoundError: if there are no snapshots.
        ValueError: for a length that they do not give, or several of them.
    """
    if isinstance(std, list):
        raise ValueError(f"--average-std takes several lengths in keras-dit evaluate only: {std}")
    made = posthoc.load(diffusion, snapshots_of(run), std, at)
    return (
        f"the average of {made.std:g} of the training at update {made.at:,}, a sum of "
        f"{made.stored} whose profile is right to {made.error:.1%}"
    )


def snapshots_of(run: str | pathlib.Path) -> pathlib.Path:
    """The folder of snapshots of a run.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = pathlib.Path(run) / AVERAGES
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no snapshots at {folder}: they come with keras-dit train --averages"
        )
    return folder


def _keras_file(path):
    """The .keras file that a path means, or None for weights from elsewhere."""
    if path.suffix == ".keras":
        return path
    if (path / "model.keras").is_file():
        return path / "model.keras"
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        raise FileNotFoundError(f"no model at {path / 'model.keras'}: a run writes it in a minute")
    found = sorted(path.glob("*.keras")) if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def _read(file):
    if not file.is_file():
        raise FileNotFoundError(f"no model at {file}")
    model = load_model(file)
    if not isinstance(model, Diffusion):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a Diffusion")
    return model


def _foreign(path, num_heads, method, codec):
    source = weights.open_source(path)
    network = source.network(**({} if num_heads is None else {"num_heads": num_heads}))
    process = {} if method is None else {"process": recipe.process(method, network)}
    process |= {} if codec is None else {"codec": codec}
    for note in source.notes if method is None else ():
        print(f"{path}: {note}")
    # Nothing trains here, so an average would be a second copy of the weights.
    parts = {**source.parts(network, process), **process, "class_names": source.class_names}
    return Model(Diffusion(network, **parts, ema=None), source.class_names, "the file's weights")


def _checkpoint(folder, name):
    place = folder / "checkpoints"
    known = {str(int(p.stem.partition("_")[2])): p for p in checkpoint_folder.paths(place)}
    if (place / checkpoint_folder.BEST).exists():
        known["best"] = place / checkpoint_folder.BEST
    if name not in known:
        there = ", ".join(nearest_first(name, known)) or "none"
        raise FileNotFoundError(f"no checkpoint {name} in {place}; there are: {there}")
    return known[name]


def in_dtype(found: Model, dtype: str | None) -> Model:
    """The model with the weights that it samples with in a dtype.

    Args:
        found: what `load` gave.
        dtype: one of `DTYPES`; None: what they are in.

    Raises:
        ValueError: where its matrices are integers already.
    """
    if dtype is None:
        return found
    network = found.diffusion.sampling_network(dtype)
    taken = f"{found.taken}, as {dtype}"
    return found._replace(diffusion=sampling(found.diffusion, network), taken=taken)


def sampling(
    model: Diffusion, network: Network | None = None, codec: Codec | None = None
) -> Diffusion:
    """A model without an average.

    Args:
        model: whose parts it has.
        network: that it samples with; None: one with the weights that `model` samples with.
        codec: None: that of `model`.
    """
    network = model.sampling_network() if network is None else network
    parts = {name: getattr(model, name) for name in ("process", "class_names")}
    return Diffusion(network, **parts, codec=codec or model.codec, ema=None)


def sized(model: Model, size: int | tuple[int, int]) -> Model:
    """The model for images of one size: one that it was trained on, or another.

    Args:
        model: of any kind that `adapt.resize` takes.
        size: in pixels, a side or (H, W).

    Raises:
        ValueError: for a size that the network's patches or the codec do not fit.
    """
    old = model.diffusion
    height, width = (size, size) if isinstance(size, int) else size
    channels = old.codec.data_shape(old.network.image_shape)[-1]
    shape = old.codec.sample_shape((height, width, channels))
    spread = shape[:2] in old.network.sizes  # as it was trained
    network = resize(old.sampling_network(), input_shape=shape, spread=spread, say=None)
    return Model(sampling(old, network), model.class_names, model.taken)


def _class_names(folder):
    """The names that a run of 0.1.0 keeps in its config.json alone."""
    folder = folder.parent if folder.suffix == ".keras" else folder
    try:
        names = json.loads((folder / "config.json").read_text())["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tuple(names) or None
