"""`train --from MODEL`: a run that starts from weights instead of a new network."""

import argparse

import keras

from keras_dit.cli import models, plan, recipe
from keras_dit.cli.options import spelled
from keras_dit.codecs import Codec, Pixels
from keras_dit.diffusion import Diffusion

__all__ = ["model", "opened"]

SIZES = (*plan.SIZE, "patch_size", "preset")  # which the model brings


def opened(
    settings: argparse.Namespace, given: dict, data, codec: Codec
) -> tuple[Diffusion, Codec]:
    """The model to start from, and the codec; its sizes become those of the settings.

    Args:
        settings: the options of `train`; changed in place.
        given: those that were given.
        data: what is trained on.
        codec: of the data, where it holds an autoencoder; else that of the model is taken.

    Raises:
        ValueError: if sizes are given too, or the model is not for this data.
    """
    heads = given["num_heads"]  # which a file from elsewhere may leave open
    wrong = [spelled(n) for n in SIZES if given[n] is not None and n != "num_heads"]
    if wrong:
        raise ValueError(f"--from brings its own sizes: leave out {', '.join(wrong)}")
    found = models.load(settings.source, num_heads=heads)
    network = found.diffusion.network
    codec = found.diffusion.codec if isinstance(codec, Pixels) else codec
    here = (network.image_shape, network.num_classes)
    there = (codec.sample_shape(data.input_shape), data.num_classes)
    if here != there:
        raise ValueError(
            f"--from {settings.source}: its network is for images {here[0]} and {_classes(here[1])}"
            f", the data has images {there[0]} and {_classes(there[1])}"
        )
    for name in (*plan.SIZE, "patch_size"):
        setattr(settings, name, network.config[name])
    print(f"start: {found.taken} of {settings.source}")
    return found.diffusion, codec


def _classes(count):
    return "no classes" if count is None else f"{count} classes"


def model(
    begun: Diffusion, settings: argparse.Namespace, method: str | None, codec: Codec
) -> Diffusion:
    """A new model with the weights that `begun` samples with; its average starts from them.

    Args:
        begun: what `opened` found.
        settings: the options of `train`.
        method: if given, the process; else that of `begun`.
        codec: of the new one.
    """
    weights = begun.sampling_network()
    policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(settings.dtype))
    config = {**weights.get_config(), "remat": settings.remat, "dtype": policy}
    network = type(weights).from_config(config)
    network.set_weights(weights.get_weights())
    process = begun.process if method is None else recipe.process(method, network)
    ema, names = recipe.average(settings), begun.class_names
    return Diffusion(network, process=process, codec=codec, ema=ema, class_names=names)
