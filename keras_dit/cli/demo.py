"""keras-dit demo: train on the embedded digits, sample, show and score."""

import time

import keras
import numpy as np

from keras_dit import datasets, images, metrics, objectives, predictions, schedules
from keras_dit.cli import common
from keras_dit.diffusion import Diffusion
from keras_dit.dit import DiTModel

HELP = "train on the embedded digits, sample, show and score"
EXAMPLE = """\
Trains on one half of 1797 handwritten digits of 8 x 8 pixels and scores the model's own digits
against the other half, beside the first half's scores. Writes digits.png, denoising.gif and
digits.keras.

example: keras-dit demo --out demo"""

EPOCHS, BATCH_SIZE = 250, 128  # of 7 steps: 1750 steps
GUIDANCE = 3.0  # of the picture; the scores are of the plain conditional model


def add_arguments(command):
    command.add_argument("--out", default="demo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    command.add_argument("--seed", type=common.natural, default=0)


def run(arguments):
    out = common.writable_folder(arguments.out)
    keras.utils.set_random_seed(arguments.seed)
    digits, labels = datasets.load_digits()
    train, held_back = datasets.split(digits, labels)
    model = _model()
    start = time.perf_counter()
    _train(model, train, epochs=2 if arguments.quick else EPOCHS, seed=arguments.seed)
    seconds = time.perf_counter() - start
    _picture(model, out, seed=arguments.seed)
    start = time.perf_counter()
    made = model.generate(
        labels=train[1], steps=50, batch_size=450, seed=arguments.seed + 1, verbose=True
    )
    rate = len(made) / (time.perf_counter() - start)
    common.save_model(model, out / "digits.keras")
    print(_report(made, train, held_back))
    print(f"training {seconds:.0f} s; sampling {rate:.1f} images/s (50 steps)")
    print(f"pictures and model are in {out}: digits.png, denoising.gif, digits.keras")


def _model():
    network = DiTModel(
        input_shape=(8, 8, 1), patch_size=2, hidden_size=128, depth=4, num_heads=4, num_classes=10
    )
    return Diffusion(
        network,
        schedule=schedules.RectifiedFlow(),
        prediction=predictions.FlowVelocity(),
        objective=objectives.MeanSquaredError(times=objectives.LogitNormalTimes()),
    )


def _train(model, digits, epochs, seed):
    batches = datasets.ImageBatches(*digits, batch_size=BATCH_SIZE, seed=seed)
    rate = common.learning_rate(1e-3, epochs * len(batches))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[common.TrainingBar()])


def _picture(model, out, seed):
    """A grid of one column for each class, and how it comes out of the noise."""
    frames = []

    def watch(step, t, x_t, x0):
        frames.append(x_t)

    pictures = model.generate(
        labels=np.tile(np.arange(10), 8),
        steps=50,
        guidance=common.guided(GUIDANCE, 10, clip=False),
        seed=seed,
        batch_size=80,
        callback=watch,
        verbose=True,
    )
    common.save_grid(out / "digits.png", pictures, columns=10)
    frames = [*frames[::2], pictures]
    grids = [images.grid(np.clip(frame, -1, 1), columns=10, scale=6) for frame in frames]
    images.save_gif(out / "denoising.gif", grids)


def _report(made, train, held_back):
    """The scores of generated digits beside those of real ones."""
    agreement = metrics.label_agreement
    rows = [
        ("", "generated", "real"),
        (
            "label agreement",
            f"{agreement(made, train[1], *train):.1%}",
            f"{agreement(*held_back, *train):.1%}",
        ),
        (
            "Frechet distance to held-back digits",
            f"{metrics.frechet_distance(made, held_back[0]):.3f}",
            f"{metrics.frechet_distance(train[0], held_back[0]):.3f}",
        ),
    ]
    return common.table(rows)
