"""keras-dit info: what the published sizes cost."""

from keras_dit.cli import common
from keras_dit.layers.patches import check_image_shape
from keras_dit.networks import PRESETS, count_parameters, multiply_adds, preset_config

HELP = "parameters, multiply-adds and memory of every published size, or of one"
EXAMPLE = """\
Multiply-adds are those of one picture's forward pass. Weights are float32; training holds them,
their gradients, AdamW's two moments and the average, 20 bytes a parameter, beside activations.

examples:
  keras-dit info
  keras-dit info dit_s_4 --input-shape 64,64,3 --num-classes 10"""


def add_arguments(command):
    command.add_argument("preset", nargs="?", help="dit_{s,b,l,xl}_{2,4,8}; default: all")
    command.add_argument(
        "--input-shape", default="32,32,4", help="height,width,channels (default: %(default)s)"
    )
    command.add_argument("--num-classes", type=common.positive, default=1000, metavar="N")
    command.add_argument(
        "--learned-variance", action="store_true", help="twice the output channels, as published"
    )


def run(arguments):
    names = list(PRESETS) if arguments.preset is None else [arguments.preset]
    rows = [("size", "tokens", "parameters", "multiply-adds", "weights", "training")]
    for name in names:
        config = {
            **preset_config(name),
            "input_shape": common.input_shape(arguments.input_shape),
            "num_classes": arguments.num_classes,
            "learned_variance": arguments.learned_variance,
        }
        check_image_shape(config["input_shape"], config["patch_size"])
        height, width, _ = config["input_shape"]
        tokens = height * width // config["patch_size"] ** 2
        parameters = count_parameters(config)
        cost = f"{multiply_adds(config) / 1e9:.2f} G"
        memory = [f"{parameters * size / 1e9:.2f} GB" for size in (4, 20)]
        rows.append((name, str(tokens), f"{parameters:,}", cost, *memory))
    print(common.table(rows))
