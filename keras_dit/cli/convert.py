"""keras-dit convert: weights from one format to another."""

import pathlib

from keras_dit import weights
from keras_dit.cli import common, sample

HELP = "convert weights between Keras and the formats of other programs"
EXAMPLE = """\
SOURCE is what `keras-dit sample` takes. Of a trained model the average of its weights is taken.
The process that the weights belong to travels with them, unseen by other programs.

examples:
  keras-dit convert DiT-XL-2-256x256.pt dit.keras
  keras-dit convert runs/photos photos.pt
  keras-dit convert runs/photos photos-diffusers"""

PROCESS = ("schedule", "prediction", "objective", "codec")


def add_arguments(command):
    command.add_argument("source", metavar="SOURCE")
    written = "; ".join(f"{' or '.join(_named(f))}: {f.title}" for f in weights.FORMATS.values())
    command.add_argument(
        "target", metavar="TARGET", help=f"its suffix says what: .keras; {written}"
    )
    sample.add_weights_arguments(command)


def _named(format):
    return [suffix or "a folder" for suffix in format.suffixes]


def run(arguments):
    target = pathlib.Path(arguments.target)
    format = None if target.suffix == ".keras" else _format(target)
    common.writable_folder(target.parent)
    model = sample.load(arguments.source, arguments.num_heads, arguments.method)
    if format is None:
        common.save_model(model, target)
    else:
        if model.average is not None:
            print(f"{arguments.source}: the average of the weights is taken")
        process = {name: getattr(model, name) for name in PROCESS}
        names = sample.class_names(arguments.source)
        weights.export(model.sampling_network(), target, format, class_names=names, **process)
    print(f"{model.network.count_params():,} parameters written to {target}")


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
