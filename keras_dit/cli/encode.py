"""keras-dit encode: the latents of a data set, made once."""

import os
import shlex

from keras_dit import codecs, datasets
from keras_dit.cli import common, options
from keras_dit.cli.common import counted
from keras_dit.datasets import sources

HELP = "make the latents of a data set once, to train on"
EXAMPLE = """\
DATA is what `keras-dit train` takes. Of each image the mean and log-variance of
its latents are kept, so that every epoch draws them anew, with --flips those of
the mirrored image too. An encoding that was stopped goes on where it was when
the command is given again. What comes next: `keras-dit train --data DIR`.

examples:
  keras-dit encode --data photos --image-size 64 --autoencoder vae --out latents
  keras-dit encode --data fashion-mnist --autoencoder ae.keras --out latents"""


def add_arguments(command):
    count = {"type": options.count, "metavar": "N"}
    add, yes = command.add_argument, {"action": "store_true"}
    add("--data", required=True, help=f"{', '.join(sources.NAMES)}, a folder or an array file")
    several = "side, or HxW such as 64x96; or several with commas, as for train"
    add("--image-size", type=options.sizes, metavar="SIZE", help=several)
    add("--channels", type=int, choices=(1, 3), help="1: grey images stay grey; default: 3")
    made = "a .keras file, a folder or file of weights, hf://owner/name"
    add("--autoencoder", required=True, metavar="FILE", help=made)
    add("--out", required=True, metavar="DIR", help="the folder of the latents")
    add("--flips", **yes, help="encode each image mirrored too")
    labels = {"dest": "labels", "action": "store_false"}
    add("--no-labels", **labels, help="leave the classes out")
    add("--skip-broken", **yes, help="leave out images that cannot be read")
    add("--limit", **count, help="take so many images at most")
    add("--batch-size", **count, default=32, help="at once (default: %(default)s)")
    options.add_devices(command)


def run(arguments):
    data = datasets.load(
        arguments.data,
        1,
        image_size=arguments.image_size,
        channels=arguments.channels,
        labels=arguments.labels,
        limit=arguments.limit,
        on_error="skip" if arguments.skip_broken else "raise",
    )
    with common.claimed(arguments.out) as folder:
        codec = codecs.Autoencoder.from_preset(arguments.autoencoder)
        try:
            codecs.cache_latents(
                codec,
                data,
                folder,
                flips=arguments.flips,
                batch_size=arguments.batch_size,
                path=arguments.autoencoder,
                source=os.path.abspath(arguments.data),
                verbose=True,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on, {folder}") from None
    for place in datasets.latent_folders(folder):
        _say(datasets.LatentFacts.read(place), codec, place)
    print(f"train on them: keras-dit train --data {shlex.quote(str(folder))} --run RUN")


def _say(facts, codec, folder):
    shape = "x".join(map(str, (*facts.shape[:2], facts.shape[2] // 2)))
    size = "x".join(map(str, facts.image_shape[:2]))
    mirrored = ", each mirrored too" if facts.flips else ""
    megabytes = sum(file.stat().st_size for file in folder.rglob("*.npy")) / 1e6
    print(f"{counted(facts.count, 'image')} of {size}{mirrored}: latents of {shape} in {folder}")
    print(f"{megabytes:,.1f} MB on the disk")
    scaled = [d * s for d, s in zip(facts.deviation, _each(codec.scale, facts.deviation))]
    print(f"deviation of each channel, scaled: {', '.join(f'{d:.3g}' for d in scaled)}")


def _each(scale, channels):
    return scale if isinstance(scale, tuple) else [scale] * len(channels)
