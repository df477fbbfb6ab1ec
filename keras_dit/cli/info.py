"""keras-dit info: what a published size costs, or what a model is."""

import json
import pathlib

from keras import ops

from keras_dit.adapt import adapter_files
from keras_dit.cli import adapters, autoencoders, common, models, options
from keras_dit.cli.common import counted
from keras_dit.codecs import Autoencoder
from keras_dit.datasets.latents import is_latent_folder
from keras_dit.layers.patches import check_image_shape
from keras_dit.networks import PRESETS, count_parameters, multiply_adds, preset_config
from keras_dit.networks.memory import training_memory

HELP = "what a published size costs, or what a model is"
EXAMPLE = """\
Multiply-adds are those of one image's forward pass. Weights are float32.
Training is about the memory of a step of AdamW with the average: 20 bytes a
parameter, and what the batch leaves for the gradient, without --remat.
MODEL is what `keras-dit sample` takes: a run's folder, a .keras file, weights
from elsewhere; or a folder of latents, or a file of adapters.

examples:
  keras-dit info
  keras-dit info dit_s_4 --input-shape 64,64,3 --num-classes 10 --batch-size 32
  keras-dit info runs/photos"""


def add_arguments(command):
    add = command.add_argument
    add("what", nargs="?", metavar="SIZE|MODEL", help="dit_{s,b,l,xl}_{2,4,8}; default: all sizes")
    shape = "height,width,channels (default: 32,32,4)"
    add("--input-shape", type=options.shape, default=(32, 32, 4), help=shape)
    count = {"type": options.count, "metavar": "N"}
    add("--num-classes", **count, default=1000, help="default: %(default)s")
    add("--batch-size", **count, default=32, help="of the training (default: %(default)s)")
    twice = "twice the output channels, as published"
    add("--learned-variance", action="store_true", help=twice)
    models.add_arguments(command)


def run(arguments):
    what = arguments.what
    if what is not None and is_latent_folder(what):
        print("\n".join(autoencoders.of_latents(what)))
        return
    if what is not None and adapter_files.is_adapter_file(what) and not arguments.lora:
        print("\n".join(adapters.of_file(what)))
        return
    if what is not None and what not in PRESETS and _is_path(what):
        print("\n".join(_description(models.load(what, **models.chosen(arguments)), what)))
        return
    names = [what] if what else [name for name in PRESETS if _fits(name, arguments.input_shape)]
    rows = [("size", "tokens", "parameters", "multiply-adds", "weights", "training")]
    print(common.table([*rows, *(_row(name, arguments) for name in names)]))


def _is_path(what):
    return pathlib.Path(what).exists() or "/" in what or "." in what


def _fits(name, shape):
    return not any(side % preset_config(name)["patch_size"] for side in shape[:2])


def _row(name, arguments):
    config = {
        **preset_config(name),
        "input_shape": arguments.input_shape,
        "num_classes": arguments.num_classes,
        "learned_variance": arguments.learned_variance,
    }
    check_image_shape(config["input_shape"], config["patch_size"])
    height, width, _ = config["input_shape"]
    tokens = height * width // config["patch_size"] ** 2
    parameters = count_parameters(config)
    cost = f"{multiply_adds(config) / 1e9:.2f} G"
    training = training_memory(config, arguments.batch_size)
    memory = [f"{size / 1e9:.2f} GB" for size in (4 * parameters, training)]
    return (name, str(tokens), f"{parameters:,}", cost, *memory)


def _description(found, path):
    """What a model is, a line each."""
    model, config = found.diffusion, found.diffusion.network.config
    height, width, channels = model.network.image_shape
    yield f"{path}: {found.taken}"
    if isinstance(model.codec, Autoencoder):
        yield from autoencoders.of_codec(model.codec, model.network.image_shape)
    else:
        sizes = ", ".join(f"{height} x {width}" for height, width in model.network.sizes)
        yield f"images    {sizes}, {counted(channels, 'channel')}, {model.codec}"
    yield f"classes   {_classes(model.network.num_classes, found.class_names)}"
    for name, condition in model.network.conditions.items():
        if name != "label":
            yield f"{name:<9} {condition.words}"
    size = (
        f"{counted(config['depth'], 'block')} of width {config['hidden_size']}, "
        f"{counted(config['num_heads'], 'head')}"
    )
    tokens = height * width // config["patch_size"] ** 2
    yield f"network   {size}, patches of {config['patch_size']}, {tokens:,} tokens"
    cost = f"{multiply_adds(config) / 1e9:.2f} G multiply-adds an image"
    yield f"          {model.network.count_params():,} parameters, {cost}"
    yield from _integers(model.network)
    yield f"process   {model.schedule}, {model.prediction}"
    yield from _run(pathlib.Path(path))


def _integers(network):
    """How many of a quantized network's weights are integers."""
    if network.quantized:
        size = sum(ops.convert_to_numpy(weight).nbytes for weight in network.weights) / 1e6
        yield f"          matrices as {', '.join(network.quantized)}, {size:.1f} MB of weights"


def _classes(count, names):
    if count is None:
        return "none"
    if not names:
        return f"{count}, without names"
    shown = ", ".join(names[:20]) + (", ..." if count > 20 else "")
    return f"{count}: {shown}"


def _run(folder):
    """What a run's folder knows of its training."""
    if not (folder / "config.json").is_file() or not (folder / "log.csv").is_file():
        return
    settings = json.loads((folder / "config.json").read_text()).get("arguments", {})
    if settings.get("lora"):
        yield f"adapters  of rank {settings['lora']}, in {folder / adapters.FILE}; here merged"
    last = (folder / "log.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(",")))
    losses = [f"{name} {float(row[name]):.4f}" for name in ("loss", "val_loss") if row.get(name)]
    yield f"training  {settings.get('data')}: epoch {row['epoch']}, {', '.join(losses)}"
