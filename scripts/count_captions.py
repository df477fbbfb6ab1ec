"""How often a network draws what it is told: the table and the picture of docs/text.md.

    python scripts/count_captions.py runs/captions --picture captions.png

Makes images by two sets of captions: of those that training could have shown, and of those in which
a thing has a colour and a digit that no image of training has together. A program counts in how
many images colour, digit and place are right of all things (`evaluation.count_scenes`).
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

from keras_dit import datasets, evaluation, guidance, images, solvers
from keras_dit.cli import models
from keras_dit.datasets import captioned

SHOWN = 20  # images of each set in the picture


def captions_of(count):
    """{name: captions} of the two sets."""
    ordinary = captioned.random_scenes(count, seed=1, without=captioned.HELD_OUT)
    held_out = captioned.random_scenes(count, seed=2, among=captioned.HELD_OUT)
    return {"seen": list(map(str, ordinary)), "held out": list(map(str, held_out))}


def row(name, counts):
    """A row of the table."""
    numbers = (f"{100 * counts[key]:.1f} %" for key in ("colour", "digit", "place", "all"))
    return " | ".join([f"| {name}", *numbers]) + " |"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run's folder or a .keras file")
    parser.add_argument("--count", type=int, default=200, help="captions of each set")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--solver", default="ddim", help="by the name that keras-dit sample takes")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0])
    parser.add_argument("--picture", help="a .png file to write")
    arguments = parser.parse_args()
    diffusion = models.load(arguments.model).diffusion
    print("| | colour | digit | place | all |\n|---|---|---|---|---|")
    real, said = datasets.captioned_digits(arguments.count, seed=3)
    print(row("real images", evaluation.count_scenes(real / 127.5 - 1, said)), flush=True)
    shown = []
    for scale in arguments.guidance:
        for name, captions in captions_of(arguments.count).items():
            made = diffusion.generate(
                conditions={"text": captions},
                steps=arguments.steps,
                solver=solvers.named(arguments.solver),
                guidance=guidance.ClassifierFree(scale),
                seed=0,
            )
            counts = evaluation.count_scenes(made, captions)
            print(row(f"{name}, guidance {scale:g}", counts), flush=True)
            shown += list(made[:SHOWN])
    if arguments.picture:
        images.save_png(arguments.picture, images.grid(shown[-2 * SHOWN :], 10, 4, scale=2))


if __name__ == "__main__":
    main()
