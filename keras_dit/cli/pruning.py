"""`convert --prune`: a smaller network of a trained one's most important parts."""

import argparse
import itertools

from keras import ops, tree

from keras_dit import adapt, datasets
from keras_dit.cli import models, teaching
from keras_dit.cli.options import count
from keras_dit.diffusion import Diffusion
from keras_dit.training.data import read_batch

__all__ = ["add_arguments", "pruned"]

NAMES = ("heads", "mlp", "depth")
IMAGES, BATCHES = 64, 8  # that a score on data looks at


def add_arguments(command) -> None:
    """The options."""
    add = command.add_argument
    kept = "leave out the least important heads, MLP units and blocks, such as: depth=6,heads=4"
    add("--prune", type=_parts, metavar="KEPT", help=kept)
    scored = "by what the loss on that data makes of them; default: by their weights"
    add("--prune-data", metavar="DATA", help=scored)


def _parts(text):
    """{name: how many are kept} of a text like heads=2,mlp=64."""
    parts = [part.partition("=") for part in text.split(",")]
    wrong = [name for name, _, _ in parts if name not in NAMES]
    if wrong or len({name for name, _, _ in parts}) < len(parts):
        raise argparse.ArgumentTypeError(
            f"must be like heads=2,mlp=64,depth=3, how many are kept, not {text!r}"
        )
    return {name: count(number) for name, _, number in parts}


def pruned(found: models.Model, arguments: argparse.Namespace) -> models.Model:
    """The model with a smaller network, if that was asked for; it has no average."""
    if arguments.prune is None:
        if arguments.prune_data is not None:
            raise ValueError("--prune-data needs a --prune")
        return found
    whole = found.diffusion
    parts = {name: getattr(whole, name) for name in ("codec", "class_names")}
    parts["process"] = teaching.alone(whole.process)
    network = whole.sampling_network()
    score = None
    if arguments.prune_data is not None:
        score = _score(Diffusion(network, **parts, ema=None), arguments.prune_data)
    smaller = adapt.prune(network, **arguments.prune, score=score)
    return found._replace(diffusion=Diffusion(smaller, **parts, ema=None))


def _score(model, source):
    """What the loss on a data set makes of a network's parts."""
    height, width, channels = model.codec.data_shape(model.network.image_shape)
    data = datasets.load(
        source,
        IMAGES,
        image_size=(height, width),
        channels=channels,
        labels=model.network.num_classes is not None,
    )
    places = itertools.cycle(range(min(BATCHES, len(data))))

    def loss():
        x, y, weight = read_batch(data[next(places)], model.network)
        return model.compute_loss(x, tree.map_structure(ops.convert_to_tensor, y), None, weight)

    return adapt.FirstOrder(loss, model.variables, BATCHES)
