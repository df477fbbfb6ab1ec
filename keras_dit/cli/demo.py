"""keras-dit demo: train on the embedded digits, sample, show and score."""

import shlex
import time

import keras
import numpy as np

from keras_dit import datasets, guidance, images, metrics, predictions, schedules, solvers
from keras_dit.cli import common, looks, options, recipe
from keras_dit.cli.common import counted
from keras_dit.cli.progress import TrainingBar
from keras_dit.diffusion import Diffusion
from keras_dit.networks import DiTModel

HELP = "train on the embedded digits, sample, show and score"
EXAMPLE = """\
Trains on nine tenths of 1797 handwritten digits of 8 x 8 pixels and scores the
model's own digits beside real ones. Writes digits.png, denoising.gif and
digits.keras.

example: keras-dit demo --out demo"""

DIGITS = tuple("0123456789")
BATCH_SIZE = 128
EPOCHS, STEPS = 125, 50  # of training, 12 optimizer steps each; of sampling
SIZE = {"hidden_size": 128, "depth": 4}
QUICK_EPOCHS, QUICK_STEPS = 2, 5
QUICK_SIZE = {"hidden_size": 32, "depth": 1}
SCORE_GUIDANCE = 1.05  # as various as the real ones


AFTERWARDS = """
Label agreement: how often the nearest training digit is of the class that was
asked for; higher is better. Generated digits can beat real ones: each is drawn
as a clear case of its class, where people write some that look like another.
Frechet distance: between the statistics of two sets; lower is better. "real" is
what other real digits reach, so there is no need to go below it.

In {out}: digits.png, denoising.gif, digits.keras. What to do next:
  keras-dit sample {out} --labels 3,1,4,1,5 --out {out}/pi.png
  keras-dit train --data digits --run runs/digits
  keras-dit train --data FOLDER --image-size 64 --run runs/mine"""


def add_arguments(command):
    command.add_argument("--out", default="demo", metavar="DIR", help="default: %(default)s")
    command.add_argument(
        "--quick", action="store_true", help="a tiny network and a few steps, to see that it runs"
    )
    command.add_argument("--seed", type=options.natural, metavar="N", default=0)


def run(arguments):
    out = common.writable_folder(arguments.out)
    keras.utils.set_random_seed(arguments.seed)
    digits, labels = datasets.load_digits()
    train, held_back = datasets.split(digits, labels, fraction=0.9)
    if arguments.quick:
        size, epochs, steps = QUICK_SIZE, QUICK_EPOCHS, QUICK_STEPS
    else:
        size, epochs, steps = SIZE, EPOCHS, STEPS
    model = _model(size)
    start = time.perf_counter()
    _train(model, train, epochs, seed=arguments.seed)
    seconds = time.perf_counter() - start
    print(f"trained in {seconds:.0f} s; a grid of digits, guidance {looks.GUIDANCE:g}:")
    _image(model, out, steps, seed=arguments.seed)
    asked = train[1][:64] if arguments.quick else train[1]
    print(f"{counted(len(asked), 'digit')} to score, guidance {SCORE_GUIDANCE:g}:")
    made, rate = _made(model, asked, steps, seed=arguments.seed + 1)
    common.save_model(model, out / "digits.keras")
    print(f"scored beside real digits ({rate:.1f} images/s in {counted(steps, 'step')}):\n")
    print(_report(made, asked, train, held_back))
    print(AFTERWARDS.format(out=shlex.quote(str(out))))


def _model(size):
    network = DiTModel(input_shape=(8, 8, 1), patch_size=2, num_heads=4, num_classes=10, **size)
    return Diffusion(
        network,
        # So small an image is lost in noise early: the cosine table has more of its steps before.
        schedule=schedules.CosineBeta(),
        prediction=predictions.V(),
    )


def _train(model, digits, epochs, seed):
    batches = datasets.ImageBatches(*digits, batch_size=BATCH_SIZE, seed=seed)
    rate = recipe.learning_rate(2e-3, epochs * len(batches))
    model.compile(recipe.optimizer(rate))
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[TrainingBar(BATCH_SIZE)])


def _image(model, out, steps, seed):
    """A grid of one column for each class, and how it comes out of the noise."""
    frames = []

    def watch(step, t, x_t, x0):
        frames.append(x_t)

    made = model.generate(
        labels=np.tile(np.arange(10), 8),
        steps=steps,
        guidance=guidance.ClassifierFree(looks.GUIDANCE),
        seed=seed,
        batch_size=80,
        callback=watch,
        verbose="sampling a grid",
    )
    labels = looks.labels_in_turn(10, len(made))
    looks.save_grid(out / "digits.png", made, model, labels, DIGITS)
    frames = [*frames[::2], made]
    grids = [images.grid(np.clip(frame, -1, 1), columns=10) for frame in frames]
    images.save_gif(out / "denoising.gif", grids)


def _made(model, labels, steps, seed):
    """Digits to score, one for each label, and how many a second."""
    start = time.perf_counter()
    made = model.generate(
        labels=labels,
        steps=steps,
        solver=solvers.DDIM(eta=1.0),
        guidance=guidance.ClassifierFree(SCORE_GUIDANCE),
        seed=seed,
        batch_size=540,
        verbose="sampling to score",
    )
    return made, len(made) / (time.perf_counter() - start)


def _report(made, asked, train, held_back):
    """The scores of generated digits beside those of real ones."""
    everything = np.concatenate([train[0], held_back[0]])
    (half, _), (other_half, _) = datasets.split(*datasets.load_digits(), fraction=0.5)
    agreement, distance = metrics.label_agreement, metrics.frechet_distance
    rows = [
        ("", "generated", "real", "better"),
        (
            "label agreement",
            f"{agreement(made, asked, *train):.1%}",
            f"{agreement(*held_back, *train):.1%}",  # held-back digits, by the training digits
            "higher",
        ),
        (
            "Frechet distance to held-back digits",
            f"{distance(made, held_back[0]):.3f}",
            f"{distance(train[0], held_back[0]):.3f}",
            "lower",
        ),
        (
            "Frechet distance to all digits",
            f"{distance(made, everything):.3f}",
            f"{distance(half, other_half):.3f}",  # one half to the other
            "lower",
        ),
    ]
    return common.table(rows)
