"""keras-dit sample: pictures from a trained model."""

import json
import pathlib
import time
import zipfile

import keras
import numpy as np

from keras_dit import (
    caching,
    files,
    guidance,
    images,
    predictions,
    sampler,
    schedules,
    solvers,
    weights,
)
from keras_dit.cli import common, train
from keras_dit.diffusion import Diffusion

HELP = "make pictures with a trained model"
EXAMPLE = """\
MODEL is the folder of a `keras-dit train` run, a .keras file, or weights from elsewhere: a .pt or
.safetensors file of facebookresearch/DiT or SiT, a folder of diffusers, hf://owner/name. Latents
are saved as .npy and shown by their first three channels. Interrupted with Ctrl-C, what there is by
then is written.

examples:
  keras-dit sample runs/digits
  keras-dit sample runs/digits --solver dpmpp-2m --steps 20 --guidance 2 --trajectory digits.gif
  keras-dit sample runs/digits --labels 3,3,3,7 --steps 100 --solver ddpm --out digits.png
  keras-dit sample DiT-XL-2-256x256.pt --labels 207,360 --solver ddpm --steps 250"""

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
    which.add_argument(
        "--num-images", type=common.positive, metavar="N", help="default: eight rows"
    )
    command.add_argument(
        "--steps", type=common.positive, metavar="N", default=50, help="default: %(default)s"
    )
    command.add_argument(
        "--solver",
        type=common.one_of(SOLVERS),
        metavar="NAME",
        default="ddim",
        help=f"{', '.join(SOLVERS)} (default: %(default)s)",
    )
    command.add_argument(
        "--grid",
        type=common.one_of(GRIDS),
        metavar="NAME",
        help=f"times to visit: {', '.join(GRIDS)} (default: the schedule's)",
    )
    _add_guidance_arguments(command)
    _add_cache_arguments(command)
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
    command.add_argument("--trajectory", metavar="GIF", help="write how the pictures come about")
    add_weights_arguments(command)


def _add_guidance_arguments(command):
    command.add_argument(
        "--guidance",
        type=common.finite,
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


def _add_cache_arguments(command):
    cache = command.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache",
        type=common.finite,
        metavar="THRESHOLD",
        help="reuse what the blocks after the first added to a picture while what the first adds "
        "changes by less than this share; usual are 0.05 to 0.2, and small batches",
    )
    cache.add_argument(
        "--cache-every",
        type=common.positive,
        metavar="N",
        help="reuse that at all evaluations but every Nth, such as 2 or 3, in batches of any size",
    )


def add_weights_arguments(command):
    """What weights from elsewhere may leave open."""
    command.add_argument(
        "--num-heads",
        type=common.positive,
        metavar="N",
        help="of the attention, for a file of no published size",
    )
    command.add_argument(
        "--method",
        type=common.one_of(train.METHODS),
        metavar="NAME",
        help=f"how the weights of a file that does not say it were trained: "
        f"{', '.join(train.METHODS)}",
    )


def run(arguments):
    out = _target(arguments.out)
    model = load(arguments.model, arguments.num_heads, arguments.method)
    trajectory = sampler.Trajectory() if arguments.trajectory else None
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
        grid=GRIDS.get(arguments.grid),
        guidance=_guidance(arguments, model.network.num_classes),
        cache=_cache(arguments),
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=trajectory,
        verbose=True,
    )
    seconds = time.perf_counter() - start
    written = _write(out, pictures, model, columns)
    print(f"{len(pictures)} pictures in {seconds:.1f} s, written to {written}")
    if trajectory:
        _write_trajectory(arguments.trajectory, trajectory, pictures, model, columns)


def load(path, num_heads=None, method=None):
    """The `Diffusion` of a run's folder, a .keras file or weights from elsewhere.

    Args:
        path: of one of them.
        num_heads, method: what weights from elsewhere leave open.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file holds something else.
    """
    folder = pathlib.Path(path)
    file = folder / "model.keras" if (folder / "model.keras").is_file() else folder
    if file.suffix != ".keras":
        return _from_elsewhere(path, num_heads, method)
    if method is not None or num_heads is not None:
        raise ValueError(f"{path} says itself how it was made: leave out --method and --num-heads")
    if not file.is_file():
        raise FileNotFoundError(f"no model at {file}")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is no .keras file, or a broken one")
    model = keras.saving.load_model(file)
    if not isinstance(model, Diffusion):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a Diffusion")
    return model


def class_names(path):
    """The names of the classes of a run or of weights from elsewhere, or None."""
    folder = pathlib.Path(path)
    if (folder / "model.keras").is_file():
        config = folder / "config.json"
        return json.loads(config.read_text())["class_names"] or None if config.is_file() else None
    return None if folder.suffix == ".keras" else weights.open_source(path).class_names


def _from_elsewhere(path, num_heads, method):
    source = weights.open_source(path)
    network = source.network(**({} if num_heads is None else {"num_heads": num_heads}))
    process = _process(method, network)
    for note in source.notes if method is None else ():
        print(f"{path}: {note}")
    # Nothing trains here, so an average would be a second copy of the weights.
    return Diffusion(network, **{**source.parts(network, process), **process}, ema=None)


def _process(method, network):
    """The parts of a method for a network, whose channels beyond its images' mean what they can."""
    if method is None:
        return {}
    schedule, prediction, objective = train.METHODS[method]
    if network.output_channels == 2 * network.image_shape[-1]:
        learned = network.learned_variance and prediction.needs_signal
        kind = predictions.LearnedVariance if learned else predictions.HalfUnused
        prediction = kind(prediction)
    return {"schedule": schedule, "prediction": prediction, "objective": objective}


def _target(path):
    """Where to write, found to be possible before any work is done for it."""
    out = pathlib.Path(path)
    if out.suffix not in (".png", ".npy") or out.is_dir():
        raise ValueError(f"--out must be a file, .png or .npy. Received: {path}")
    common.writable_folder(out.parent)
    return out


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


def _cache(arguments):
    if arguments.cache is not None:
        return caching.FirstBlockCache(arguments.cache)
    if arguments.cache_every is not None:
        return caching.PeriodicCache(arguments.cache_every)
    return None


def _labels(text, num_classes, count):
    if text is None:
        return common.class_labels(num_classes, count)
    try:
        return [int(label) for label in text.split(",")]
    except ValueError:
        raise ValueError(f"--labels must be like 0,1,2. Received: {text}") from None


def _write(out, pictures, model, columns):
    """A picture; of what is none the numbers, and a picture of its first three channels."""
    if _visible(pictures, model) and out.suffix == ".png":
        pictures = common.to_unit(pictures, model.codec)
        common.save_grid(out, pictures, min(columns, len(pictures)))
        return out
    numbers = out.with_suffix(".npy")
    with files.beside(numbers) as new:
        np.save(new, pictures)
    if out.suffix == ".npy":
        return numbers
    shown = pictures[..., :3] if pictures.shape[-1] >= 3 else pictures[..., :1]
    limit = max(np.abs(shown).max(), 1e-6)
    common.save_grid(out, shown / limit, min(columns, len(pictures)))
    return f"{numbers}, and shown in {out} by their first {shown.shape[-1]} channels"


def _visible(pictures, model):
    return pictures.shape[-1] in (1, 3) and np.isfinite(model.codec.high)


def _write_trajectory(path, trajectory, pictures, model, columns):
    if not _visible(pictures, model):
        raise ValueError("--trajectory needs pictures that can be seen, with 1 or 3 channels")
    noisy = trajectory.x_t[:: -(-len(trajectory.t) // FRAMES)]  # (n, N, H, W, C)
    frames = [*model.codec.decode(noisy), pictures[: noisy.shape[1]]]
    columns, scale = min(columns, len(pictures)), common.enlargement(pictures.shape[1])
    units = [common.to_unit(frame, model.codec) for frame in frames]
    images.save_gif(path, [images.grid(unit, columns=columns, scale=scale) for unit in units])
    print(f"{len(frames)} steps of them written to {path}")
