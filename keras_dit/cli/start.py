"""`train --from MODEL`: a run that starts from weights instead of a new network."""

import argparse
import dataclasses
from typing import Any, NamedTuple

import keras

from keras_dit import adapt, processes
from keras_dit.cli import models, plan, recipe, teaching, texts
from keras_dit.cli.options import spelled
from keras_dit.codecs import Autoencoder, Codec, Latents, Pixels
from keras_dit.diffusion import Diffusion
from keras_dit.networks.resizing.configuring import changed
from keras_dit.objectives import BackwardDifference, MeanFlow

__all__ = ["Start", "model", "opened"]

SIZES = (*plan.SIZE, "preset")  # which the model brings


class Start(NamedTuple):
    """What a run starts from.

    Attributes:
        diffusion: the model.
        codec: of the new one.
        changes: what of its network is to be another, as for `adapt.resize`.
        class_names: names of the classes, before and after, or None where they are not known.
        notes: what is to be said, a sentence each.
    """

    diffusion: Diffusion
    codec: Codec
    changes: dict[str, Any]
    class_names: tuple
    notes: list[str]

    @property
    def config(self) -> dict:
        """The configuration of the network that is to be trained."""
        return changed(self.diffusion.network, self.changes)


def opened(settings: argparse.Namespace, given: dict, data: Any, codec: Codec) -> Start:
    """The model to start from, and what of it changes; its sizes become those of the settings.

    Args:
        settings: the options of `train`; changed in place.
        given: those that were given.
        data: what is trained on.
        codec: of the data, where it holds an autoencoder; else that of the model is taken.

    Raises:
        ValueError: if sizes are given too, or the model cannot be for this data.
    """
    wrong = [spelled(n) for n in SIZES if given[n] is not None and n != "num_heads"]
    if wrong:
        raise ValueError(
            f"--from brings a network of its own size: leave out {', '.join(wrong)}, or --from. "
            "--patch-size and --image-size may be others"
        )
    # A file from elsewhere may leave the heads open.
    found = models.load(settings.source, num_heads=given["num_heads"])
    old = found.diffusion
    codec, notes = _codec(settings, data, old, codec)
    changes = _changes(given, data, old.network, codec)
    _check_patch(settings, given, old.network, changes)
    if given["method"] is not None:
        changes |= _variance(given["method"], old.network, changes)
        notes += _of_process(given["method"], old)
    for name in plan.SIZE:
        setattr(settings, name, old.network.config[name])
    settings.patch_size = changes.get("patch_size", old.network.config["patch_size"])
    names = found.class_names, data.class_names or None
    notes.insert(0, f"start: {found.taken} of {settings.source}")
    return Start(old, codec, changes, names, notes)


def _codec(settings, data, old, codec):
    """The codec of the new model, and what there is to say of it."""
    if isinstance(codec, Pixels):
        codec = old.codec
        shape = data.input_shape
        if isinstance(codec, Latents) and shape[-1] != old.network.image_shape[-1]:
            raise ValueError(
                f"--from {settings.source}: its network is for latents of "
                f"{old.network.image_shape[-1]} channels, the data has images {shape}: give the "
                "autoencoder they are of by --autoencoder, such as "
                "hf://stabilityai/sd-vae-ft-ema, or as --data latents of keras-dit encode"
            )
        return codec, []
    ours, theirs = (getattr(each, "identity", None) for each in (codec, old.codec))
    if isinstance(old.codec, Autoencoder) and ours != theirs:
        return codec, [f"autoencoder: {ours}, was {theirs}; its latents mean something else"]
    return codec, []


def _changes(given, data, network, codec):
    """What of the network is to be another for this data."""
    shape = tuple(codec.sample_shape(data.input_shape))
    wanted = {"num_classes": data.num_classes, "input_shape": shape}
    if given["patch_size"] is not None:
        wanted["patch_size"] = given["patch_size"]
    has = {**network.config, "num_classes": network.num_classes}
    changes = {name: value for name, value in wanted.items() if value != has.get(name)}
    sizes = plan.sample_sizes(data, codec)[1:]
    if sizes != network.sizes[1:]:
        changes["image_sizes"] = sizes
    others = {n: c for n, c in network.conditions.items() if n != "label"}
    told = {n: c for n, c in others.items() if n in data.conditions or c.of_process}
    new = texts.conditions(data, network)
    if new or len(told) < len(others):
        changes["conditions"] = told | new
    return changes


def _check_patch(settings, given, network, changes):
    """Raise ValueError where the patches of the network do not cut the images."""
    patch = changes.get("patch_size", network.config["patch_size"])
    height, width, _ = changes.get("input_shape", network.image_shape)
    if (height % patch or width % patch) and given["patch_size"] is None:
        raise ValueError(
            f"--from {settings.source}: its patches of {patch} do not cut what the network would "
            f"see, {height} x {width}: give another --image-size, or --patch-size "
            f"{plan.patch_size((height, width, 1))}"
        )


def _variance(method, network, changes):
    """A learned variance, where the process needs one that the network has not."""
    channels = changes.get("input_shape", network.image_shape)[-1]
    needs = processes.named(method).prediction.output_channels(channels)
    single = network.output_channels == network.image_shape[-1]
    return {"learned_variance": True} if single and needs == 2 * channels else {}


def _of_process(method, old):
    """What is said of another process than that of the weights."""
    before = next((name for name, one in processes.NAMED.items() if one == old.process), None)
    if before == method:
        return []
    objective = processes.named(method).objective
    if objective.tunes or objective.settings:
        return [f"process: that of the weights, by the objective of {method}"]
    was = before or f"{old.prediction} on {old.schedule}"
    return [f"process: {method}, was {was}; what the output means is learned anew"]


def _settled(method, network):
    """The objective of a method, so that a network which was not trained by it bears it.

    What a flow network knows of time has large derivatives: learning from them it can forget all.
    """
    objective = processes.named(method).objective
    if isinstance(objective, MeanFlow) and not set(objective.settings) <= set(network.conditions):
        return dataclasses.replace(objective, slope=BackwardDifference())
    return objective


def model(start: Start, settings: argparse.Namespace, method: str | None) -> Diffusion:
    """A new model with the weights that the old one samples with; its average starts from them.

    Args:
        start: what `opened` found. What becomes of the weights joins its notes.
        settings: the options of `train`.
        method: if given, the process; else that of the old model.
    """
    policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(settings.dtype))
    weights = start.diffusion.sampling_network()
    network = adapt.resize(
        weights,
        class_names=start.class_names,
        say=start.notes.append,
        **start.changes,
        remat=settings.remat,
        dtype=policy,
    )
    process = teaching.alone(start.diffusion.process)
    if method is not None and processes.named(method).objective.settings:
        network, process = adapt.extend(network, process, _settled(method, network))
    elif method is not None:
        process = recipe.process(method, network, process)
    known = start.class_names[0] if network.num_classes == weights.num_classes else None
    return Diffusion(
        network,
        process=process,
        codec=start.codec,
        ema=recipe.average(settings),
        class_names=start.class_names[1] or known,
    )
