"""keras-dit demo: train on the embedded digits, sample, show and score."""

import time

import keras
import numpy as np

from keras_dit import datasets, guidance, images, metrics, predictions, schedules, solvers
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion
from keras_dit.networks import DiTModel

HELP = "train on the embedded digits, sample, show and score"
EXAMPLE = """\
Trains on nine tenths of 1797 handwritten digits of 8 x 8 pixels and scores the model's own digits
beside real ones. Writes digits.png, denoising.gif and digits.keras.

example: keras-dit demo --out demo"""

BATCH_SIZE = 128
EPOCHS, STEPS = 125, 50  # of training, 12 optimizer steps each; of sampling
SIZE = {"hidden_size": 128, "depth": 4}
QUICK_EPOCHS, QUICK_STEPS = 2, 5
QUICK_SIZE = {"hidden_size": 32, "depth": 1}
PICTURE_GUIDANCE = 2.0  # each digit at its clearest
SCORE_GUIDANCE = 1.05  # as various as the real ones


def add_arguments(command):
    command.add_argument("--out", default="demo", metavar="DIR", help="default: %(default)s")
    command.add_argument(
        "--quick", action="store_true", help="a tiny network and a few steps, to see that it runs"
    )
    command.add_argument("--seed", type=common.natural, metavar="N", default=0)


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
    _picture(model, out, steps, seed=arguments.seed)
    asked = train[1][:64] if arguments.quick else train[1]
    made, rate = _made(model, asked, steps, seed=arguments.seed + 1)
    common.save_model(model, out / "digits.keras")
    print(_report(made, asked, train, held_back))
    print(f"training {seconds:.0f} s; sampling {rate:.1f} images/s ({steps} steps, guided)")
    print(f"pictures and model are in {out}: digits.png, denoising.gif, digits.keras")


def _model(size):
    network = DiTModel(input_shape=(8, 8, 1), patch_size=2, num_heads=4, num_classes=10, **size)
    return Diffusion(
        network,
        # So small a picture is lost in noise early: the cosine table has more of its steps before.
        schedule=schedules.CosineBeta(),
        prediction=predictions.V(),
    )


def _train(model, digits, epochs, seed):
    batches = datasets.ImageBatches(*digits, batch_size=BATCH_SIZE, seed=seed)
    rate = common.learning_rate(2e-3, epochs * len(batches))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[common.TrainingBar()])


def _picture(model, out, steps, seed):
    """A grid of one column for each class, and how it comes out of the noise."""
    frames = []

    def watch(step, t, x_t, x0):
        frames.append(x_t)

    pictures = model.generate(
        labels=np.tile(np.arange(10), 8),
        steps=steps,
        guidance=guidance.ClassifierFree(PICTURE_GUIDANCE),
        seed=seed,
        batch_size=80,
        callback=watch,
        verbose=True,
    )
    common.save_grid(out / "digits.png", pictures, columns=10)
    frames = [*frames[::2], pictures]
    grids = [images.grid(np.clip(frame, -1, 1), columns=10, scale=6) for frame in frames]
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
        verbose=True,
    )
    return made, len(made) / (time.perf_counter() - start)


def _report(made, asked, train, held_back):
    """The scores of generated digits beside those of real ones."""
    everything = np.concatenate([train[0], held_back[0]])
    (half, _), (other_half, _) = datasets.split(*datasets.load_digits(), fraction=0.5)
    agreement, distance = metrics.label_agreement, metrics.frechet_distance
    rows = [
        ("", "generated", "real"),
        (
            "label agreement",
            f"{agreement(made, asked, *train):.1%}",
            f"{agreement(*held_back, *train):.1%}",  # held-back digits, by the training digits
        ),
        (
            "Frechet distance to held-back digits",
            f"{distance(made, held_back[0]):.3f}",
            f"{distance(train[0], held_back[0]):.3f}",
        ),
        (
            "Frechet distance to all digits",
            f"{distance(made, everything):.3f}",
            f"{distance(half, other_half):.3f}",  # one half to the other
        ),
    ]
    return common.table(rows)
