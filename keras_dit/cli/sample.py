"""keras-dit sample: pictures from a trained model."""

import pathlib
import time

import keras
import numpy as np

from keras_dit import guidance, images, sampler, schedules, solvers
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion

HELP = "make pictures with a trained model"
EXAMPLE = """\
MODEL is the folder of a `keras-dit train` run or a .keras file. Interrupted with Ctrl-C, what there
is by then is written.

examples:
  keras-dit sample runs/digits
  keras-dit sample runs/digits --solver dpmpp-2m --steps 20 --guidance 2 --trajectory digits.gif
  keras-dit sample runs/digits --labels 3,3,3,7 --steps 100 --solver ddpm --out digits.png"""

SOLVERS = {
    "ddim": solvers.DDIM(),
    "ddim-eta1": solvers.DDIM(1.0),
    "ddpm": solvers.DDPM(),
    "ddpm-large": solvers.DDPM(1.0),
    "dpmpp-2m": solvers.DPMSolverPP2M(),
    "dpmpp-2m-sde": solvers.DPMSolverPP2MSDE(),
    "dpmpp-3m": solvers.DPMSolverPP3M(),
    "euler": solvers.Euler(),
    "euler-ancestral": solvers.EulerAncestral(),
    "euler-maruyama": solvers.EulerMaruyama(),
    "heun": solvers.Heun(),
    "lcm": solvers.LCM(),
    "midpoint": solvers.Midpoint(),
    "unipc-2": solvers.UniPC(2),
    "unipc-3": solvers.UniPC(3),
}
GRIDS = {
    "karras": schedules.KarrasGrid(),
    "leading": schedules.LeadingGrid(),
    "linspace": schedules.LinspaceGrid(),
    "log-snr": schedules.LogSNRGrid(),
    "shifted": schedules.ShiftedGrid(),
    "uniform": schedules.UniformGrid(),
}
FRAMES = 50  # of a trajectory, at most


def add_arguments(command):
    command.add_argument("model", metavar="MODEL")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--labels", help="classes by number, such as 0,1,2; default: each in turn")
    which.add_argument("--num-images", type=common.positive, metavar="N", help="default: 80")
    command.add_argument("--steps", type=common.positive, default=50, help="default: %(default)s")
    command.add_argument("--solver", choices=SOLVERS, default="ddim", help="default: %(default)s")
    command.add_argument("--grid", choices=GRIDS, help="times to visit; default: the schedule's")
    command.add_argument(
        "--guidance",
        type=float,
        default=3.0,
        metavar="SCALE",
        help="classifier-free guidance; 1: none (default: %(default)s)",
    )
    command.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide between these times only, such as 0.2 0.8",
    )
    command.add_argument(
        "--guidance-rescale",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="bring contrast back to that without guidance, 0 to 1 (default: %(default)s)",
    )
    command.add_argument(
        "--negative", type=common.natural, metavar="LABEL", help="guide away from this class"
    )
    command.add_argument(
        "--clip", action="store_true", help="clip each step's estimate to the range of pixels"
    )
    command.add_argument("--batch-size", type=common.positive, default=64, help="at once, at most")
    command.add_argument("--seed", type=common.natural, default=0)
    command.add_argument("--out", default="grid.png", help="default: %(default)s")
    command.add_argument("--trajectory", metavar="GIF", help="write how the pictures come about")


def run(arguments):
    model = load(arguments.model)
    out = pathlib.Path(arguments.out)
    common.writable_folder(out.parent)
    trajectory = sampler.Trajectory() if arguments.trajectory else None
    labels = _labels(arguments, model.network.num_classes)
    count = len(labels) if labels is not None else arguments.num_images or 80
    start = time.perf_counter()
    pictures = model.generate(
        labels=labels,
        num_images=count,
        steps=arguments.steps,
        solver=SOLVERS[arguments.solver],
        grid=GRIDS.get(arguments.grid),
        guidance=_guidance(arguments, model.network.num_classes),
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=trajectory,
        verbose=True,
    )
    seconds = time.perf_counter() - start
    written = _write(out, pictures, model)
    print(f"{len(pictures)} pictures in {seconds:.1f} s, written to {written}")
    if trajectory:
        _write_trajectory(arguments.trajectory, trajectory, pictures, model)


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
    if file.suffix != ".keras":
        raise ValueError(f"MODEL must be a run's folder or a .keras file. Received: {path}")
    model = keras.saving.load_model(file)
    if not isinstance(model, Diffusion):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a Diffusion")
    return model


def _guidance(arguments, num_classes):
    if num_classes is None:
        return common.guided(arguments.guidance, num_classes, arguments.clip)
    scale = arguments.guidance
    if arguments.guidance_interval:
        scale = guidance.Interval(scale, *arguments.guidance_interval)
    settings = {"scale": scale, "rescale": arguments.guidance_rescale}
    if arguments.negative is None:
        chosen = guidance.ClassifierFree(**settings)
    elif arguments.negative < num_classes:
        chosen = guidance.NegativeLabel(label=arguments.negative, **settings)
    else:
        raise ValueError(f"--negative must be below {num_classes}. Received: {arguments.negative}")
    return guidance.Clipped(chosen) if arguments.clip else chosen


def _labels(arguments, num_classes):
    if arguments.labels is None:
        return common.class_labels(num_classes, arguments.num_images or 80)
    try:
        return [int(label) for label in arguments.labels.split(",")]
    except ValueError:
        raise ValueError(f"--labels must be like 0,1,2. Received: {arguments.labels}") from None


def _write(out, pictures, model):
    """A picture of what can be seen, else the numbers."""
    if _visible(pictures, model):
        pictures = common.to_unit(pictures, model.codec)
        common.save_grid(out, pictures, _columns(pictures, model))
        return out
    out = out.with_suffix(".npy")
    np.save(out, pictures)
    return out


def _visible(pictures, model):
    return pictures.shape[-1] in (1, 3) and np.isfinite(model.codec.high)


def _columns(pictures, model):
    return min(model.network.num_classes or 10, 10, len(pictures))


def _write_trajectory(path, trajectory, pictures, model):
    if not _visible(pictures, model):
        raise ValueError("--trajectory needs pictures that can be seen, with 1 or 3 channels")
    noisy = trajectory.x_t[:: -(-len(trajectory.t) // FRAMES)]  # (n, N, H, W, C)
    frames = [*model.codec.decode(noisy), pictures[: noisy.shape[1]]]
    columns, scale = _columns(pictures, model), common.enlargement(pictures.shape[1])
    units = [common.to_unit(frame, model.codec) for frame in frames]
    images.save_gif(path, [images.grid(unit, columns=columns, scale=scale) for unit in units])
    print(f"{len(frames)} steps of them written to {path}")
