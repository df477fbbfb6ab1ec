"""keras-dit sample: pictures from a trained model."""

import pathlib
import time
import zipfile

import keras
import numpy as np

from keras_dit import solvers
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion

HELP = "make pictures with a trained model"
EXAMPLE = """\
MODEL is the folder of a `keras-dit train` run or a .keras file.

examples:
  keras-dit sample runs/digits
  keras-dit sample runs/digits --labels 3,3,3,7 --steps 100 --solver ddpm --out digits.png"""

SOLVERS = {
    "ddim": solvers.DDIM(),
    "ddim-eta1": solvers.DDIM(1.0),
    "ddpm": solvers.DDPM(),
    "euler": solvers.Euler(),
    "heun": solvers.Heun(),
}


def add_arguments(command):
    command.add_argument("model", metavar="MODEL")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--labels", help="classes by number, such as 0,1,2; default: each in turn")
    which.add_argument(
        "--num-images", type=common.positive, metavar="N", help="default: eight rows"
    )
    command.add_argument(
        "--steps", type=common.positive, metavar="N", default=50, help="default: %(default)s"
    )
    command.add_argument(
        "--solver",
        type=common.one_of(SOLVERS),
        default="ddim",
        help=f"{', '.join(SOLVERS)} (default: %(default)s)",
    )
    command.add_argument(
        "--guidance",
        type=common.finite,
        default=3.0,
        metavar="SCALE",
        help="classifier-free guidance; 1: none (default: %(default)s)",
    )
    command.add_argument(
        "--clip", action="store_true", help="clip each step's estimate to the range of pixels"
    )
    command.add_argument(
        "--batch-size", type=common.positive, metavar="N", default=64, help="at once, at most"
    )
    command.add_argument("--seed", type=common.natural, metavar="N", default=0)
    command.add_argument(
        "--out",
        default="grid.png",
        metavar="FILE",
        help=".png for a grid, .npy for the numbers (default: %(default)s)",
    )


def run(arguments):
    out = _target(arguments.out)
    model = load(arguments.model)
    columns = common.grid_columns(model.network.num_classes)
    count = arguments.num_images or 8 * columns
    labels = _labels(arguments.labels, model.network.num_classes, count)
    count = count if labels is None else len(labels)
    start = time.perf_counter()
    pictures = model.generate(
        labels=labels,
        num_images=count,
        steps=arguments.steps,
        solver=SOLVERS[arguments.solver],
        guidance=common.guided(arguments.guidance, model.network.num_classes, arguments.clip),
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        verbose=True,
    )
    seconds = time.perf_counter() - start
    written = _write(out, pictures, model, columns)
    print(f"{count} pictures in {seconds:.1f} s, written to {written}")


def load(path):
    """The `Diffusion` of a run's folder or a .keras file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file holds something else.
    """
    path = pathlib.Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no model at {file}")
    if file.suffix != ".keras" or not zipfile.is_zipfile(file):
        raise ValueError(f"MODEL must be a run's folder or a .keras file. Received: {path}")
    model = keras.saving.load_model(file)
    if not isinstance(model, Diffusion):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a Diffusion")
    return model


def _target(path):
    """Where to write, found to be possible before any work is done for it."""
    out = pathlib.Path(path)
    if out.suffix not in (".png", ".npy") or out.is_dir():
        raise ValueError(f"--out must be a file, .png or .npy. Received: {path}")
    common.writable_folder(out.parent)
    return out


def _labels(text, num_classes, count):
    if text is None:
        return common.class_labels(num_classes, count)
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        raise ValueError(f"--labels must be like 0,1,2. Received: {text}") from None


def _write(out, pictures, model, columns):
    """A picture of what can be seen, else the numbers."""
    visible = pictures.shape[-1] in (1, 3) and np.isfinite(model.codec.high)
    if visible and out.suffix == ".png":
        columns = min(columns, len(pictures))
        common.save_grid(out, common.to_unit(pictures, model.codec), columns)
        return out
    out = out.with_suffix(".npy")
    np.save(out, pictures)
    return out
