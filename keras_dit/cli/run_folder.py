"""A run's folder while it trains: config.json, log.csv, loss.png, model.keras, samples/."""

import csv
import importlib.util
import inspect
import json
import pathlib
import shutil
import time

import keras
from keras import ops

import keras_dit
from keras_dit import backend, files
from keras_dit.cli import adapters, common, looks, texts
from keras_dit.cli.progress import Stopwatch
from keras_dit.codecs import Autoencoder, Codec
from keras_dit.training.profiles import Power
from keras_dit.training.snapshots import Snapshots

__all__ = [
    "AUTOENCODER",
    "AVERAGES",
    "Log",
    "RunFolder",
    "TensorBoard",
    "check_tensorboard",
    "keep_autoencoder",
    "plot_loss",
    "snapshot_notes",
    "snapshots",
    "write_config",
]

AUTOENCODER = "autoencoder.keras"
AVERAGES = "averages"  # the folder of snapshots


def write_config(folder: pathlib.Path, settings: dict, data, model) -> None:
    """config.json: with what, on what and as what a run was started."""
    config = {
        "keras_dit": keras_dit.__version__,
        "backend": backend.BACKEND,
        "arguments": settings,
        "class_names": list(data.class_names or ()),
        "prompts": texts.previews(data),
        "model": model.get_config(),
    }
    with files.beside(folder / "config.json") as new:
        new.write_text(json.dumps(config, indent=2) + "\n")


def keep_autoencoder(folder: pathlib.Path, codec: Codec) -> None:
    """Put the autoencoder of a run into its folder once: no checkpoint repeats it."""
    if isinstance(codec, Autoencoder):
        with backend.alone():
            codec.save(folder / AUTOENCODER)


def snapshots(folder: pathlib.Path, model) -> list[Snapshots]:
    """What writes the averages of a run on the way, where it has any whose length is open."""
    return [Snapshots(folder / AVERAGES, resume=True)] if isinstance(model.ema, Power) else []


def snapshot_notes(model) -> list[str]:
    """What the averages take on the disk, in words."""
    if not isinstance(model.ema, Power):
        return []
    stds, kept = model.ema.stds, inspect.signature(Snapshots).parameters["keep"].default
    size = 2 * len(stds) * model.network.count_params() * (kept + 1) / 1e9
    widths = " and ".join(f"{std:g}" for std in stds)
    return [f"averages: {widths} of the training, in up to {kept + 1} snapshots, {size:.3g} GB"]


class Log(keras.callbacks.Callback):
    """log.csv, a row for each epoch, the first of which is 1.

    The learning rate and the images a second join the logs of the epoch, so that the checkpoint
    keeps them: the rows of a run that goes on come from there.

    Args:
        path: of the file.
        batch_size: images in a step.
        checkpoint: the `Checkpoint` of the run.
    """

    def __init__(self, path: pathlib.Path, batch_size: int, checkpoint):
        super().__init__()
        self.path, self.batch_size, self.checkpoint = path, batch_size, checkpoint

    def on_epoch_begin(self, epoch, logs=None):
        self.times = []  # at which steps ended

    def on_train_batch_end(self, batch, logs=None):
        if not self.times or batch + 1 == self.params["steps"]:
            logs.get("loss")  # which is there when the step has ended; others may have begun only
        self.times.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        steps = len(self.times) - 1  # from the end of the first, which may have been compiled
        if steps:
            seconds = self.times[-1] - self.times[0]
            logs["images_per_second"] = round(steps * self.batch_size / seconds, 1)
        self._write([*self.checkpoint.rows, {"epoch": epoch, **logs}])

    def _write(self, rows):
        names = list(dict.fromkeys(name for row in reversed(rows) for name in row))
        with files.beside(self.path) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({**row, "epoch": row["epoch"] + 1} for row in rows)


class RunFolder(keras.callbacks.Callback):
    """Keeps model.keras and loss.png up to date, and puts images into samples/.

    Args:
        folder: of the run.
        bar: the `TrainingBar`, which says what is done.
        sample_every: epochs between two grids of images; None: there is one at the end only.
        class_names: of the columns.
        prompts: that the columns are told; none for a network without texts.
        seconds: between two times that the model is saved, at least.
    """

    def __init__(self, folder, bar, sample_every=None, class_names=None, prompts=(), seconds=60.0):
        super().__init__()
        self.folder, self.bar, self.sample_every = folder, bar, sample_every
        self.prompts = prompts
        self.class_names, self.seconds, self.sampled = class_names, seconds, None
        self.since_saved = Stopwatch()

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.params["epochs"] or self.since_saved.seconds > self.seconds:
            self.save()
        if self.sample_every and (epoch + 1) % self.sample_every == 0:
            with self.bar.bar.saying("sampling"):
                self.sampled = self._sample(f"epoch_{epoch + 1:05d}.png"), epoch + 1

    def save(self):
        """Write model.keras and loss.png as things stand."""
        common.save_model(self.model, self.folder / "model.keras")
        adapters.keep(self.model, self.folder)
        plot_loss(self.folder / "log.csv")
        self.since_saved.restart()

    def finish(self):
        """The last images, which may be those of the last epoch."""
        path, epoch = self.sampled or (None, None)
        if epoch == self.params["epochs"]:
            with files.beside(path.with_name("final.png")) as new:
                shutil.copyfile(path, new)
        else:
            self._sample("final.png", verbose=True)

    def _sample(self, name, verbose=False):
        path = self.folder / "samples" / name
        images, labels = looks.sampled(self.model, verbose, self.prompts)
        looks.save_grid(path, images, self.model, labels, self.class_names)
        if self.prompts:
            said = "".join(f"{prompt}\n" for prompt in self.prompts)
            path.with_name("prompts.txt").write_text(said, encoding="utf-8")
        return path


def plot_loss(log: pathlib.Path) -> bool:
    """Draw loss.png from log.csv beside it; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    with log.open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
        if points:
            axes.plot(*zip(*points), label=label, marker="." if len(points) < 30 else None)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    with files.beside(log.with_name("loss.png")) as new:
        figure.savefig(new, dpi=120)
    return True


def check_tensorboard() -> None:
    """Raise ImportError if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError("--tensorboard needs tensorboard: pip install tensorboard")


class TensorBoard(keras.callbacks.Callback):
    """The numbers of log.csv for TensorBoard; it needs none of the backends."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            self.writer.add_scalar(name, float(value), epoch + 1)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()
