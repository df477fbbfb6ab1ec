"""What a run is given where nobody said it: patch, batch, remat, epochs, by data and memory.

A kernel that runs out of memory kills the process without a word, so what a step will take is
estimated before it begins.
"""

import argparse
import itertools
import math
from collections.abc import Sequence

from keras_dit import backend
from keras_dit.cli import recipe, texts
from keras_dit.cli.common import counted
from keras_dit.codecs import Codec, Pixels
from keras_dit.datasets import ImageBatches
from keras_dit.networks import preset_config
from keras_dit.networks.cost import count_parameters
from keras_dit.networks.memory import training_memory

__all__ = ["fill", "sample_sizes", "suited"]

SIZE = {"hidden_size": 128, "depth": 4, "num_heads": 4}  # where neither preset nor size is given
MOST_TOKENS = 256  # of an image, where the patch is chosen
PIXELS = Pixels()
# What suits a data set by its name better than what the size of its images says.
SUITED = {"captioned-digits": {"method": "jit", "patch_size": 8, "batch_size": 64, "steps": 6000}}
IMAGES_SEEN, EPOCHS = 300_000, (5, 500)  # over the whole run; how many epochs that may be
LARGE, SMALL = 32, 8  # batches at which less memory is sought by remat, and given up
SHARE = 0.8  # of the memory that is free


def suited(given: dict) -> dict:
    """Settings that suit the data set of that name, but for those that are given.

    Args:
        given: the options of `train`, None where one is not given.

    Returns:
        The settings; none where another option gives the network's size.
    """
    found = dict(SUITED.get(given["data"], {}))
    if given["source"] or given["preset"]:
        return {}
    if given["epochs"]:
        found.pop("steps", None)
    if given["limit"]:  # there may be fewer images than that
        found.pop("batch_size", None)
    return {name: value for name, value in found.items() if given[name] is None}


def fill(
    settings: argparse.Namespace, data, codec: Codec = PIXELS, network: dict | None = None
) -> list[str]:
    """Choose what is None in the settings of a new run.

    Args:
        settings: the options of `train`; changed in place.
        data: the `ImageBatches`; its batch size is changed too.
        codec: between the data and the network.
        network: its configuration, where it is there already; None: the settings say it.

    Returns:
        What was chosen and what it takes, a sentence each.

    Raises:
        ValueError: if a step would not fit into the memory that is free.
    """
    if network is None:
        smallest = 2 if isinstance(codec, Pixels) else 1
        _size(settings, sample_sizes(data, codec), smallest)

    def chosen():
        if network is None:
            return config(settings, data, codec)
        return {**network, "remat": bool(settings.remat)}

    notes = _memory(settings, data, chosen)
    return [_network(settings, chosen()), *notes, *_length(settings, data)]


def config(settings: argparse.Namespace, data, codec: Codec = PIXELS) -> dict:
    """The configuration of the network that the settings say, as far as its cost depends on it."""
    size = preset_config(settings.preset) if settings.preset else {}
    own = {name: getattr(settings, name) for name in (*SIZE, "patch_size")}
    size = size or own
    shape = codec.sample_shape(data.input_shape)
    facts = {"input_shape": shape, "num_classes": data.num_classes}
    if others := sample_sizes(data, codec)[1:]:
        facts["image_sizes"] = others
    told, own = texts.parts(data, size["num_heads"]), recipe.network_parts(settings.method)
    conditions = {**told.get("conditions", {}), **own["conditions"]}
    return {**size, **facts, **told, **own, "conditions": conditions, "remat": bool(settings.remat)}


def sample_sizes(data: ImageBatches, codec: Codec) -> tuple[tuple[int, int], ...]:
    """(H, W) of all that the network sees of the images' sizes."""
    *own, channels = data.input_shape
    sizes = getattr(data, "image_sizes", (own,))
    return tuple(tuple(codec.sample_shape((*size, channels))[:2]) for size in sizes)


def _size(settings, sizes, smallest):
    if settings.preset:
        return  # its numbers are known by its name
    for name, value in SIZE.items():
        if getattr(settings, name) is None:
            setattr(settings, name, value)
    if settings.patch_size is None:
        (height, width), *others = sizes
        settings.patch_size = patch_size((height, width, 1), smallest, others)


def patch_size(
    input_shape: tuple[int, int, int], smallest: int = 2, others: Sequence[tuple[int, int]] = ()
) -> int:
    """The smallest patch, from that one on, that leaves so many tokens; else the largest.

    Args:
        input_shape: (H, W, C) of what the network sees.
        smallest: patch.
        others: (H, W) of what else it is to see.
    """
    sizes = [input_shape[:2], *others]
    divisor, pixels = math.gcd(*itertools.chain(*sizes)), max(map(math.prod, sizes))
    sides = [side for side in range(smallest, divisor + 1) if divisor % side == 0] or [1]
    return next((s for s in sides if pixels // s**2 <= MOST_TOKENS), sides[-1])


def _network(settings, chosen):
    height, width, _ = chosen["input_shape"]
    tokens = height * width // chosen["patch_size"] ** 2
    name = (
        settings.preset or f"{counted(chosen['depth'], 'block')} of width {chosen['hidden_size']}"
    )
    return f"network: {name}, patches of {chosen['patch_size']}, {tokens:,} tokens an image"


def _memory(settings, data, config):
    """Choose the batch, and remat, so that a step fits; say what it takes."""
    free = backend.free_memory()
    chosen_batch, chosen_remat = settings.batch_size is None, settings.remat is None
    batch = data.batch_size if chosen_batch else settings.batch_size
    settings.remat = bool(settings.remat)

    def takes():
        chosen = config()
        sizes = (chosen["input_shape"][:2], *chosen.get("image_sizes", ()))
        chosen["input_shape"] = (*max(sizes, key=math.prod), chosen["input_shape"][-1])
        averages = 4 * count_parameters(chosen) * _more_averages(settings)
        return backend.step_memory().program + training_memory(chosen, batch) + averages

    def too_much():
        return not settings.any_memory and free is not None and takes() > SHARE * free

    while chosen_batch and batch > LARGE and too_much():
        batch = max(LARGE, batch // 2)
    if chosen_remat and too_much():
        settings.remat = True
    while chosen_batch and batch > SMALL and too_much():
        batch = max(SMALL, batch // 2)
    if too_much():
        raise ValueError(_refusal(settings, batch, takes(), free))
    settings.batch_size = data.batch_size = batch
    room = "" if free is None else f" of {free / 1e9:.1f} GB that are free"
    remat = ", with --remat" if settings.remat else ""
    memory = f"a step takes about {takes() / 1e9:.1f} GB{room}"
    return [f"batch: {counted(batch, 'image')}{remat}; {memory}"]


def _more_averages(settings):
    """How many averages of the weights there are beside the usual one."""
    stds = settings.averages
    return len(stds) - 1 if isinstance(stds, list) else 0


def _refusal(settings, batch, takes, free):
    helps = [] if settings.remat else ["--remat"]
    helps += [f"--batch-size {max(1, batch // 4)}"] if batch > 1 else []
    helps += ["a larger --patch-size", "a smaller --image-size", "a smaller network"]
    return (
        f"a training step would take about {takes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
        f"What helps: {', '.join(helps)}; --any-memory tries it all the same"
    )


def _length(settings, data):
    if settings.epochs is None and settings.steps is None:
        low, high = EPOCHS
        settings.epochs = min(max(math.ceil(IMAGES_SEEN / len(data.images)), low), high)
    epochs = settings.epochs or math.ceil(settings.steps / len(data))
    settings.epochs, settings.steps = epochs, None
    return [f"length: {counted(epochs, 'epoch')} of {counted(len(data), 'step')}"]
