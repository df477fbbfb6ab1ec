"""keras-dit autoencoder: an autoencoder of one's own."""

import argparse
import pathlib
import shlex
import time

import keras
import numpy as np

from keras_dit import codecs, datasets, images
from keras_dit.cli import common, options, recipe
from keras_dit.cli.common import counted
from keras_dit.cli.progress import Stopwatch, TrainingBar
from keras_dit.codecs import AutoencoderKL, AutoencoderTrainer
from keras_dit.datasets import sources
from keras_dit.evaluation.reconstruction import psnr
from keras_dit.registry import Registry

HELP = "train an autoencoder, for latents of images that no published one was made for"
EXAMPLE = """\
DATA is what `keras-dit train` takes. Written are FILE.keras, about every minute
and at the end, and FILE.png: held-back images, and below each what comes back.
The loss has no perceptual and no adversarial term, so photographs come back
smooth; drawings, digits and clothes come back well. What comes next:
`keras-dit encode`.

examples:
  keras-dit autoencoder --data fashion-mnist --factor 4 --out ae.keras
  keras-dit autoencoder --data photos --image-size 64 --width 64 --out ae.keras"""

LOSSES = Registry(
    "loss",
    {"l1": keras.losses.MeanAbsoluteError, "mse": keras.losses.MeanSquaredError},
)
IMAGES_SEEN, EPOCHS = 600_000, (5, 500)
SHOWN, SCORED = 10, 1000  # held-back images
WIDER = (1, 2, 4, 4)  # channels at each halving, as of Stable Diffusion
GROUPS = 8


def add_arguments(command):
    count = {"type": options.count, "metavar": "N"}
    add = command.add_argument
    add("--out", required=True, metavar="FILE", help="a .keras file")
    _add_data(command.add_argument_group("data"), count)
    add = command.add_argument_group("network").add_argument
    factor = "latents are smaller by it, 2, 4, 8 or 16 (default: %(default)s)"
    add("--factor", type=int, choices=(2, 4, 8, 16), default=8, help=factor)
    channels = "numbers at each place of the latents (default: %(default)s)"
    add("--latent-channels", **count, default=4, help=channels)
    width = f"channels next to the pixels, a multiple of {GROUPS} (default: %(default)s)"
    add("--width", **count, default=32, help=width)
    add("--blocks", **count, default=1, help="residual ones a size (default: %(default)s)")
    add("--from", dest="source", metavar="FILE", help="start from it, and be of its size")
    _add_training(command.add_argument_group("training"), count)


def _add_data(group, count):
    add = group.add_argument
    add("--data", required=True, help=f"{', '.join(sources.NAMES)}, a folder or an array file")
    add("--image-size", type=options.size, metavar="SIZE", help="side, or HxW such as 64x96")
    add("--channels", type=int, choices=(1, 3), help="1: grey images stay grey; default: 3")
    add("--flip", action="store_true", help="mirror images left to right at random")
    share = {"type": options.share, "metavar": "SHARE", "default": 0.05}
    add("--validation", **share, help="kept apart, for the scores (default: %(default)s)")
    add("--limit", **count, help="take so many images at most")


def _add_training(group, count):
    add = group.add_argument
    add("--epochs", **count, help="default: by the number of images")
    add("--batch-size", **count, default=64, help="default: %(default)s")
    rate = {"type": options.positive_number, "metavar": "RATE", "default": 1e-3}
    add("--learning-rate", **rate, help="its peak (default: %(default)s)")
    loss = {"type": options.one_of(LOSSES), "metavar": "NAME", "default": "l1"}
    add("--loss", **loss, help=f"of pixels: {', '.join(LOSSES)} (default: %(default)s)")
    weight = {"type": options.amount, "metavar": "WEIGHT", "default": 1e-6}
    add("--kl-weight", **weight, help="more: smoother latents, coarser images (default: 1e-6)")
    add("--seed", type=options.natural, metavar="N", default=0, help="default: %(default)s")


def run(arguments):
    out = pathlib.Path(arguments.out)
    if out.suffix != ".keras":
        raise ValueError(f"--out must be a .keras file. Received: {out}")
    keras.utils.set_random_seed(arguments.seed)
    data = datasets.load(
        arguments.data,
        arguments.batch_size,
        image_size=arguments.image_size,
        channels=arguments.channels,
        flip=arguments.flip,
        labels=False,
        validation=arguments.validation,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    with common.claimed(out.parent):
        network = new_network(arguments, data.input_shape)
        print(f"{counted(len(data.images), 'image')}; {network.count_params():,} parameters")
        begun = time.perf_counter()
        _train(arguments, network, data, out)
        codec = codecs.measured(network, data)
        codec.save(out)
    minutes = (time.perf_counter() - begun) / 60
    print(f"{minutes:.1f} minutes; written to {out}")
    _score(codec, data, out.with_suffix(".png"))
    print(f"next: keras-dit encode --data {shlex.quote(arguments.data)} ", end="")
    print(f"--autoencoder {shlex.quote(str(out))} --out latents")


def new_network(arguments: argparse.Namespace, image_shape: tuple[int, int, int]) -> keras.Model:
    """The network that the options say, for images of that shape (H, W, C).

    Raises:
        ValueError: if the two do not fit each other.
    """
    height, width, channels = image_shape
    if arguments.source is not None:
        network = codecs.Autoencoder.from_preset(arguments.source).network
        factor, known = network.factor, network.in_channels
    else:
        factor, known, network = arguments.factor, channels, None
    if height % factor or width % factor or channels != known:
        raise ValueError(
            f"images must have sides that are multiples of {factor} and {counted(known, 'channel')}"
            f": give --image-size or another --factor. Received: {height}x{width}x{channels}"
        )
    if network is not None:
        return network
    if arguments.width % GROUPS:
        raise ValueError(f"--width must be a multiple of {GROUPS}. Received: {arguments.width}")
    levels = factor.bit_length()
    wider = [*WIDER, *WIDER[-1:] * levels][:levels]
    return AutoencoderKL(
        in_channels=channels,
        latent_channels=arguments.latent_channels,
        channels=tuple(arguments.width * times for times in wider),
        layers_per_block=arguments.blocks,
        groups=GROUPS,
    )


def _train(arguments, network, data, out):
    low, high = EPOCHS
    epochs = arguments.epochs or min(max(IMAGES_SEEN // len(data.images), low), high)
    loss = LOSSES.named(arguments.loss)()
    trainer = AutoencoderTrainer(network, arguments.kl_weight, loss)
    rate = recipe.learning_rate(arguments.learning_rate, epochs * len(data))
    trainer.compile(recipe.optimizer(rate, clip_norm=1.0))
    bar, keeper = TrainingBar(data.batch_size), _Keeper(network, data, out)
    history = trainer.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=[bar, keeper])
    last = {name: values[-1] for name, values in history.history.items()}
    print(", ".join(f"{name} {value:.4g}" for name, value in last.items()))


class _Keeper(keras.callbacks.Callback):
    """Writes the autoencoder about every minute, so that what is stopped is not lost."""

    def __init__(self, network, data, out):
        super().__init__()
        self.network, self.data, self.out, self.since = network, data, out, Stopwatch()

    def on_epoch_end(self, epoch, logs=None):
        if self.since.seconds > 60:
            codecs.measured(self.network, self.data, count=256).save(self.out)
            self.since.restart()


def _score(codec, data, path):
    """Print how well held-back images come back, and write some of them with what they become."""
    held = data.validation or data
    count = min(SCORED, len(held.images))
    there = np.concatenate(
        [held.batch(0, i)[0] for i in range(min(len(held), -(-count // held.batch_size)))]
    )[:count]
    back = codecs.reconstructed(codec, there)
    error = float(np.mean((back - there) ** 2))
    of = "held-back images" if data.validation else "images that it was trained on"
    print(f"{count:,} {of}: MSE {error:.5f} of [-1, 1], PSNR {psnr(back, there):.2f} dB")
    rows = np.concatenate([there[:SHOWN], back[:SHOWN]])
    images.save_png(path, images.grid(rows, columns=len(rows) // 2))
    print(f"images and what comes back below them: {path}")
