"""What the commands share."""

import argparse
import math
import pathlib
import uuid

import keras
import numpy as np
from tqdm.auto import tqdm

from keras_dit import files, guidance, images
from keras_dit.registry import nearest_first


def _number(text, kind, allowed, description):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not allowed(value):  # every comparison with NaN is false
        raise argparse.ArgumentTypeError(f"must be {description}, not {text!r}")
    return value


def positive(text):
    """An integer of 1 or more, for argparse."""
    return _number(text, int, lambda n: n >= 1, "an integer of 1 or more")


def natural(text):
    """An integer of 0 or more, for argparse."""
    return _number(text, int, lambda n: n >= 0, "an integer of 0 or more")


def finite(text):
    """A number that is neither infinite nor NaN, for argparse."""
    return _number(text, float, math.isfinite, "a finite number")


def positive_number(text):
    """A finite number above 0, for argparse."""
    return _number(text, float, lambda x: 0 < x < math.inf, "a finite number above 0")


def one_of(names):
    """For argparse: one of these names. A wrong one gets them all, the nearest first."""

    def name(text):
        if text in names:
            return text
        choices = ", ".join(nearest_first(text, names))
        raise argparse.ArgumentTypeError(f"must be one of {choices}, not {text!r}")

    return name


def input_shape(text):
    """(H, W, C) of an option like 32,32,4."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"--input-shape must be like 32,32,4. Received: {text}") from None


def writable_folder(path):
    """Create the folder and try to write there, before any work is done for it.

    Raises:
        OSError: if that fails.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder


def save_model(model, path):
    """Save a `.keras` file; one that was good stays until the new one is whole."""
    with files.beside(path) as new:
        model.save(new)


class TrainingBar(keras.callbacks.Callback):
    """One progress bar over all steps of a run, with the loss of the epoch so far."""

    def on_train_begin(self, logs=None):
        total = self.params["epochs"] * self.params["steps"]
        done = int(self.model.optimizer.iterations) + int(self.model.skipped)
        self.bar = tqdm(total=total, initial=done, desc="training", unit="step", dynamic_ncols=True)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if logs and self.bar.n % 10 == 0:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)

    def on_train_end(self, logs=None):
        self.bar.close()


def learning_rate(peak, steps):
    """Linear warm-up over a twentieth of the run, then a cosine to zero."""
    return keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=peak, warmup_steps=max(1, steps // 20)
    )


def grid_columns(num_classes):
    """Columns of a picture grid: one for each class, of many classes and of none a few."""
    return min(num_classes or 8, 10)


def class_labels(num_classes, count):
    """Labels of a picture grid: each class in turn, or None for a network without classes."""
    return None if num_classes is None else [i % num_classes for i in range(count)]


def guided(scale, num_classes, clip):
    """The guidance of a command's --guidance."""
    chosen = guidance.Unguided() if num_classes is None else guidance.ClassifierFree(scale)
    return guidance.Clipped(chosen) if clip else chosen


def enlargement(height):
    """How many times small pictures are enlarged to be seen."""
    return max(1, 48 // height)


def to_unit(pictures, codec):
    """Pictures of a codec's range -> [-1, 1]."""
    return (pictures - codec.low) / (codec.high - codec.low) * 2.0 - 1.0


def save_grid(path, pictures, columns):
    """Write pictures in [-1, 1] as one PNG."""
    scale = enlargement(pictures.shape[1])
    images.save_png(path, images.grid(pictures, columns=columns, scale=scale))


def table(rows):
    """Rows of text in aligned columns, the first row a heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def readable(number):
    """33M, 1.2G: three digits and a prefix."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{np.format_float_positional(number / limit, precision=2, trim='-')}{suffix}"
    return str(number)
