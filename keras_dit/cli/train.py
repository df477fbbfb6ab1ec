"""keras-dit train: a run's folder from a data set."""

import json
import math
import pathlib
import time

import keras

import keras_dit
from keras_dit import datasets, objectives, predictions, schedules
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion
from keras_dit.dit import PRESETS, DiTModel, preset_config

HELP = "train a model on a data set"
EXAMPLE = """\
The run's folder gets config.json, log.csv, model.keras (about every minute, and at the end) and
samples/. A folder of pictures holds one folder for each class.

examples:
  keras-dit train --data digits --run runs/digits --epochs 100
  keras-dit train --data photos --image-size 64 --run runs/photos --preset dit_s_4 --flip"""

# How pictures become noise, and what the network learns of it.
METHODS = {
    "ddpm": (schedules.LinearBeta(), predictions.Noise(), objectives.MeanSquaredError()),
    "flow": (
        schedules.RectifiedFlow(),
        predictions.FlowVelocity(),
        objectives.MeanSquaredError(times=objectives.LogitNormalTimes()),
    ),
}


def add_arguments(command):
    add = command.add_argument
    count = {"type": common.positive, "metavar": "N"}
    default = "default: %(default)s"
    add("--data", required=True, metavar="DATA", help="digits, fashion-mnist or a folder")
    add("--run", required=True, dest="folder", metavar="DIR", help="the run's folder, a new one")
    add("--image-size", **count, help="side, for a folder of pictures")
    add("--flip", action="store_true", help="mirror pictures left to right at random")
    preset = common.one_of(PRESETS)
    add("--preset", type=preset, metavar="SIZE", help="dit_{s,b,l,xl}_{2,4,8}, or instead:")
    add("--hidden-size", **count, default=128, help=default)
    add("--depth", **count, default=4, help=default)
    add("--num-heads", **count, default=4, help=default)
    add("--patch-size", **count, default=2, help=default)
    names = f"{', '.join(METHODS)} ({default})"
    add("--method", type=common.one_of(METHODS), default="flow", help=names)
    length = command.add_mutually_exclusive_group()
    length.add_argument("--epochs", **count, help="default: 100")
    length.add_argument("--steps", **count, help="optimizer steps, instead of epochs")
    add("--batch-size", **count, default=128, help=default)
    add(
        "--learning-rate",
        type=common.positive_number,
        metavar="RATE",
        help="its peak, after a warm-up and before a cosine to 0 (default: 0.128 / hidden size)",
    )
    average = f"decay of the average of the weights ({default})"
    add("--ema", type=common.finite, metavar="DECAY", default=0.9999, help=average)
    add("--seed", type=common.natural, metavar="N", default=0, help=default)
    add("--dtype", default="float32", help="a Keras policy, such as mixed_bfloat16")
    add("--remat", action="store_true", help="less memory for a third more arithmetic")
    add("--sample-every", **{**count, "metavar": "EPOCHS"}, help="pictures on the way")


def run(arguments):
    folder = _new_folder(arguments.folder)
    keras.utils.set_random_seed(arguments.seed)
    data = datasets.load(
        arguments.data,
        arguments.batch_size,
        image_size=arguments.image_size,
        flip=arguments.flip,
        seed=arguments.seed,
    )
    model = _model(arguments, data)
    epochs, total = _length(arguments, len(data))
    peak = arguments.learning_rate or 0.128 / model.network.config["hidden_size"]
    rate = common.learning_rate(peak, total)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))
    _write_config(folder, arguments, data, model)
    print(
        f"{len(data.images)} pictures {data.input_shape}, {data.num_classes} classes; "
        f"{model.network.count_params():,} parameters; {epochs} epochs of {len(data)} steps"
    )
    callbacks = [
        common.TrainingBar(),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        _RunFolder(folder, arguments.sample_every),
    ]
    start = time.perf_counter()
    model.fit(data, epochs=epochs, verbose=0, callbacks=callbacks)
    _pictures(model, folder / "samples" / "final.png")
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.1f} minutes; model and pictures are in {folder}")
    print(f"more pictures: keras-dit sample {folder}")


def _new_folder(path):
    folder = pathlib.Path(path)
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} holds a run already: choose another folder")
    return common.writable_folder(folder)


def _model(arguments, data):
    names = ("hidden_size", "depth", "num_heads", "patch_size")
    size = {name: getattr(arguments, name) for name in names}
    network = DiTModel(
        **(preset_config(arguments.preset) if arguments.preset else size),
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        remat=arguments.remat,
        dtype=arguments.dtype,
    )
    schedule, prediction, objective = METHODS[arguments.method]
    return Diffusion(network, schedule, prediction, objective, ema=arguments.ema)


def _length(arguments, steps_per_epoch):
    """(epochs, optimizer steps) of the run; so many steps are rounded up to whole epochs."""
    if arguments.steps is None:
        epochs = arguments.epochs or 100
    else:
        epochs = math.ceil(arguments.steps / steps_per_epoch)
    return epochs, epochs * steps_per_epoch


def _write_config(folder, arguments, data, model):
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "debug", "folder")}
    config = {
        "keras_dit": keras_dit.__version__,
        "backend": keras_dit.backend.BACKEND,
        "arguments": settings,
        "class_names": list(data.class_names or ()),
        "model": model.get_config(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


class _RunFolder(keras.callbacks.Callback):
    """Keeps model.keras up to date and puts pictures into samples/."""

    def __init__(self, folder, sample_every, seconds=60.0):
        super().__init__()
        self.folder, self.sample_every, self.seconds = folder, sample_every, seconds
        self.saved = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):  # the weights are lost: the file saved before stays
            raise ValueError(
                f"the loss is {logs['loss']} in epoch {epoch + 1}: the model was not saved after "
                "that. A lower --learning-rate helps"
            )
        if epoch + 1 == self.params["epochs"] or time.monotonic() - self.saved > self.seconds:
            common.save_model(self.model, self.folder / "model.keras")
            self.saved = time.monotonic()
        if self.sample_every and (epoch + 1) % self.sample_every == 0:
            _pictures(self.model, self.folder / "samples" / f"epoch_{epoch + 1:05d}.png")


def _pictures(model, path):
    classes = model.network.num_classes
    columns = common.grid_columns(classes)
    pictures = model.generate(
        labels=common.class_labels(classes, 8 * columns),
        num_images=8 * columns,
        guidance=common.guided(2.0, classes, clip=True),
    )
    common.save_grid(path, pictures, columns)
