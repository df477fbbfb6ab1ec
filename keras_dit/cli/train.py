"""keras-dit train: a run's folder from a data set."""

import argparse
import csv
import json
import math
import pathlib
import shlex
import time

import keras

import keras_dit
from keras_dit import backend, datasets, files, objectives, predictions, schedules
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion
from keras_dit.networks import PRESETS, DiTModel, preset_config
from keras_dit.training.checkpoints import Checkpoint, Interrupted

HELP = "train a model on a data set"
EXAMPLE = """\
The run's folder gets config.json, log.csv, model.keras (about every minute, and at the end),
samples/, and checkpoints/, from which a run that was stopped goes on exactly. A folder of pictures
holds one folder for each class.

examples:
  keras-dit train --data digits --run runs/digits --epochs 100
  keras-dit train --data photos --image-size 64 --run runs/photos --preset dit_s_4 --flip
  keras-dit train --resume --run runs/photos"""

NOT_SETTINGS = ("command", "run", "debug", "folder", "resume")

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
    add("--data", metavar="DATA", help="digits, fashion-mnist or a folder")
    add("--run", required=True, dest="folder", metavar="DIR", help="the run's folder, a new one")
    add("--resume", action="store_true", help="go on with the run of that folder, as it was set up")
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
    seconds = "between two checkpoints, at least (default: 60, and 50 times what one takes)"
    add("--checkpoint-every", type=common.finite, metavar="SECONDS", help=seconds)
    add("--sample-every", **{**count, "metavar": "EPOCHS"}, help="pictures on the way")


def run(arguments):
    backend.reuse_freed_memory()
    folder = pathlib.Path(arguments.folder)
    if arguments.resume:
        arguments = _arguments_of(folder, arguments)
    else:
        _new_folder(folder, arguments)
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
    if not arguments.resume:
        _write_config(folder, arguments, data, model)
    print(
        f"{len(data.images)} pictures {data.input_shape}, {data.num_classes} classes; "
        f"{model.network.count_params():,} parameters; {epochs} epochs of {len(data)} steps"
    )
    start = time.perf_counter()
    _train(model, data, epochs, folder, arguments)
    _pictures(model, folder / "samples" / "final.png")
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.1f} minutes; model and pictures are in {folder}")
    print(f"more pictures: keras-dit sample {folder}")


def _train(model, data, epochs, folder, arguments):
    callbacks = [
        common.TrainingBar(),
        _Log(folder / "log.csv"),
        _RunFolder(folder, arguments.sample_every),
        # Without a checkpoint it begins, so that a run stopped before its first one can go on too.
        Checkpoint(folder / "checkpoints", arguments.checkpoint_every, resume=True),
    ]
    try:
        model.fit(data, epochs=epochs, verbose=0, callbacks=callbacks)
    except Interrupted:
        callbacks[0].on_train_end()  # ends the bar's line
        print(f"to go on: keras-dit train --resume --run {shlex.quote(str(folder))}")
        raise


def _new_folder(folder, arguments):
    if arguments.data is None:
        raise ValueError("--data is needed: digits, fashion-mnist or a folder")
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} holds a run already: choose another folder, or go on with it by --resume"
        )
    common.writable_folder(folder)


def _arguments_of(folder, arguments):
    """What the run in the folder was started with.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if other settings are given.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no run to go on with: there is no {file}")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = vars(parser.parse_args(["--run", str(folder)]))
    given = [n for n in defaults if n not in ("folder", "resume")]
    given = [n for n in given if getattr(arguments, n) != defaults[n]]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--resume goes on with the settings of {file}: leave out {names}")
    settings = json.loads(file.read_text())["arguments"]
    return argparse.Namespace(**{**defaults, **settings, "resume": True})


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
    settings = {k: v for k, v in vars(arguments).items() if k not in NOT_SETTINGS}
    config = {
        "keras_dit": keras_dit.__version__,
        "backend": keras_dit.backend.BACKEND,
        "arguments": settings,
        "class_names": list(data.class_names or ()),
        "model": model.get_config(),
    }
    with files.beside(folder / "config.json") as new:
        new.write_text(json.dumps(config, indent=2) + "\n")


class _Log(keras.callbacks.Callback):
    """log.csv, a row for each epoch. The rows of a run that goes on come from its checkpoint."""

    def __init__(self, path):
        super().__init__()
        self.path, self.begun = path, False

    def on_epoch_end(self, epoch, logs=None):
        rows = [{"epoch": epoch, **logs}]
        if not self.begun:
            past = self.model.history
            columns = [past.epoch, *past.history.values()]
            rows = [*(dict(zip(("epoch", *past.history), row)) for row in zip(*columns)), *rows]
        with open(self.path, "a" if self.begun else "w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *logs])
            if not self.begun:
                writer.writeheader()
            writer.writerows(rows)
        self.begun = True


class _RunFolder(keras.callbacks.Callback):
    """Keeps model.keras up to date and puts pictures into samples/."""

    def __init__(self, folder, sample_every, seconds=60.0):
        super().__init__()
        self.folder, self.sample_every, self.seconds = folder, sample_every, seconds
        self.saved = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
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
