"""keras-dit convert: weights from one format to another."""

import pathlib

from keras_dit import weights
from keras_dit.cli import common, models, options, pruning
from keras_dit.networks.base import QUANTIZATIONS

HELP = "convert weights between Keras and the formats of other programs"
EXAMPLE = """\
SOURCE is what `keras-dit sample` takes as MODEL. Which of its weights are taken
is printed: the average, if it has one, or with --raw the raw ones.
The process that they belong to and the names of the classes travel with them,
unseen by other programs. Adapters (--lora) are merged. Weights as integers go
into a .keras file, and are those that the model samples with.

examples:
  keras-dit convert DiT-XL-2-256x256.pt dit.keras
  keras-dit convert runs/photos photos.pt
  keras-dit convert runs/photos photos-diffusers
  keras-dit convert DiT-XL-2-256x256.pt pets.pt --lora runs/pets
  keras-dit convert runs/photos small.keras --prune depth=6,mlp=768 \\
    --prune-data photos/
  keras-dit convert runs/photos photos-int8.keras --quantize int8"""

PROCESS = ("schedule", "prediction", "objective", "codec")


def add_arguments(command):
    command.add_argument("source", metavar="SOURCE")
    written = "; ".join(f"{' or '.join(_named(f))}: {f.title}" for f in weights.FORMATS.values())
    command.add_argument(
        "target", metavar="TARGET", help=f"its suffix says what: .keras; {written}"
    )
    integers = f"hold the matrices as integers: {', '.join(QUANTIZATIONS)}"
    quantizations = options.one_of(QUANTIZATIONS)
    command.add_argument("--quantize", type=quantizations, metavar="MODE", help=integers)
    models.add_arguments(command)
    pruning.add_arguments(command)


def _named(format):
    return [suffix or "a folder" for suffix in format.suffixes]


def run(arguments):
    target = pathlib.Path(arguments.target)
    format = None if target.suffix == ".keras" else _format(target)
    if arguments.quantize and format is not None:
        raise ValueError(f"--quantize is for a .keras file. Received: {target}")
    with common.claimed(target.parent):
        found = models.load(arguments.source, **models.chosen(arguments))
        found = pruning.pruned(found, arguments)
        found = models.in_dtype(found, arguments.quantize)
        _write(found, target, format)
    parameters = found.diffusion.network.count_params()
    print(f"{parameters:,} parameters written to {target}, of {found.taken}")


def _write(found, target, format):
    model = found.diffusion
    if format is None:
        common.save_model(model, target)
        return
    process = {name: getattr(model, name) for name in PROCESS}
    network = model.sampling_network()
    weights.export(network, target, format, class_names=found.class_names, **process)


def _format(target):
    """The format that the target names, found to be possible before the model is loaded."""
    try:
        return weights.format_of_target(target)
    except ValueError:
        allowed = ", ".join([".keras", *weights.suffixes()])
        head, _, last = allowed.rpartition(", ")
        raise ValueError(
            f"TARGET must end in {head} or {last}, or be a folder. Received: {target}"
        ) from None
