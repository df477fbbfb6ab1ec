"""keras-dit convert: weights from one format to another."""

import pathlib

from keras_dit import weights
from keras_dit.cli import common, sample

HELP = "convert weights between Keras and the formats of other programs"
EXAMPLE = """\
SOURCE is what `keras-dit sample` takes. TARGET says the format: .keras, .pt or .safetensors (both
of facebookresearch/DiT), or without a suffix a folder of diffusers. Of a trained model the average
of its weights is taken.

examples:
  keras-dit convert DiT-XL-2-256x256.pt dit.keras
  keras-dit convert runs/photos photos.pt
  keras-dit convert runs/photos photos-diffusers"""

FORMATS = {".pt": "facebook_dit", ".safetensors": "facebook_dit", "": "diffusers"}


def add_arguments(command):
    command.add_argument("source", metavar="SOURCE")
    command.add_argument("target", metavar="TARGET")
    sample.add_weights_arguments(command)


def run(arguments):
    target = pathlib.Path(arguments.target)
    if target.suffix != ".keras" and target.suffix not in FORMATS:
        raise ValueError(
            f"TARGET must end in .keras, .pt or .safetensors, or be a folder. Received: {target}"
        )
    common.writable_folder(target.parent)
    model = sample.load(arguments.source, num_heads=arguments.num_heads)
    if target.suffix == ".keras":
        common.save_model(model, target)
    else:
        weights.export(model.sampling_network(), target, FORMATS[target.suffix])
    print(f"{model.network.count_params():,} parameters written to {target}")
