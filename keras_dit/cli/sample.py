"""keras-dit sample: pictures from a trained model."""

import pathlib
import time

import keras
import numpy as np

from keras_dit import solvers
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion

HELP = "make pictures with a trained model"
EXAMPLE = """\
MODEL is the folder of a `keras-dit train` run, a .keras file, or weights from elsewhere: a .pt or
.safetensors file of facebookresearch/DiT or SiT, a folder of diffusers, hf://owner/name. Latents
are saved as .npy and shown by their first three channels.

examples:
  keras-dit sample runs/digits
  keras-dit sample runs/digits --labels 3,3,3,7 --steps 100 --solver ddpm --out digits.png
  keras-dit sample DiT-XL-2-256x256.pt --labels 207,360 --solver ddpm --steps 250"""

DIFFUSERS = ("config.json", "transformer")  # one of them is in every folder of theirs
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
    which.add_argument("--num-images", type=common.positive, metavar="N", help="default: 80")
    command.add_argument("--steps", type=common.positive, default=50, help="default: %(default)s")
    command.add_argument("--solver", choices=SOLVERS, default="ddim", help="default: %(default)s")
    command.add_argument(
        "--guidance",
        type=float,
        default=3.0,
        metavar="SCALE",
        help="classifier-free guidance; 1: none (default: %(default)s)",
    )
    command.add_argument(
        "--clip", action="store_true", help="clip each step's estimate to the range of pixels"
    )
    command.add_argument("--batch-size", type=common.positive, default=64, help="at once, at most")
    command.add_argument("--seed", type=common.natural, default=0)
    command.add_argument("--out", default="grid.png", help="default: %(default)s")
    add_weights_arguments(command)


def add_weights_arguments(command):
    """What weights from elsewhere may leave open."""
    command.add_argument(
        "--num-heads",
        type=common.positive,
        metavar="N",
        help="of the attention, for a file of no published size",
    )


def run(arguments):
    model = load(arguments.model, num_heads=arguments.num_heads)
    out = pathlib.Path(arguments.out)
    common.writable_folder(out.parent)
    labels = _labels(arguments, model.network.num_classes)
    count = len(labels) if labels is not None else arguments.num_images or 80
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
    written = _write(out, pictures, model)
    print(f"{count} pictures in {seconds:.1f} s, written to {written}")


def load(path, num_heads=None):
    """The `Diffusion` of a run's folder, a .keras file or weights from elsewhere.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file holds something else.
    """
    folder = pathlib.Path(path)
    file = folder / "model.keras" if (folder / "model.keras").is_file() else folder
    if file.suffix != ".keras":
        if folder.is_dir() and not any((folder / name).exists() for name in DIFFUSERS):
            raise FileNotFoundError(f"no model at {folder}")
        heads = {} if num_heads is None else {"num_heads": num_heads}
        # Nothing trains here, so an average would be a second copy of the weights.
        return Diffusion.from_preset(path, ema=None, **heads)
    if not file.is_file():
        raise FileNotFoundError(f"no model at {file}")
    model = keras.saving.load_model(file)
    if not isinstance(model, Diffusion):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a Diffusion")
    return model


def _labels(arguments, num_classes):
    if arguments.labels is None:
        return common.class_labels(num_classes, arguments.num_images or 80)
    try:
        return [int(label) for label in arguments.labels.split(",")]
    except ValueError:
        raise ValueError(f"--labels must be like 0,1,2. Received: {arguments.labels}") from None


def _write(out, pictures, model):
    """A picture; of what is none the numbers, and a picture of its first three channels."""
    columns = min(model.network.num_classes or 10, 10, len(pictures))
    if pictures.shape[-1] in (1, 3) and np.isfinite(model.codec.high):
        common.save_grid(out, common.to_unit(pictures, model.codec), columns)
        return out
    numbers = out.with_suffix(".npy")
    np.save(numbers, pictures)
    shown = pictures[..., :3] if pictures.shape[-1] >= 3 else pictures[..., :1]
    common.save_grid(out, shown / max(np.abs(shown).max(), 1e-6), columns)
    return f"{numbers}, and shown in {out} by their first {shown.shape[-1]} channels"
