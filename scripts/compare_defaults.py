"""Solvers at few and many steps, for the choice of defaults: the tables of docs/choose.md.

    python scripts/compare_defaults.py digits RUN/model.keras out.csv

Makes new images with each solver, at 5, 10, 20 and 50 steps, with guidance 1 and 2 and with two
seeds, and prints their Fréchet distance to the real ones, in pixels. A second run goes on.
"""

import argparse
import csv
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras

from keras_dit import datasets, guidance, metrics, solvers

SOLVERS = {
    "DDIM": solvers.DDIM(),
    "DPM-Solver++ 2M": solvers.DPMSolverPP2M(),
    "UniPC-2": solvers.UniPC(2),
    "Heun": solvers.Heun(),
}
LOADERS = {"digits": datasets.load_digits, "fashion-mnist": datasets.load_fashion_mnist}
CELLS = [
    (scale, seed, steps, name)
    for seed in (1, 2)
    for scale in (1.0, 2.0)
    for steps in (5, 10, 20, 50)
    for name in SOLVERS
]


def main():
    """Measure what the file does not have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=LOADERS, help="what it was trained on")
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("out", type=pathlib.Path, help="a .csv file")
    parser.add_argument("--count", type=int, default=1000, help="images for each number")
    arguments = parser.parse_args()
    images, labels = LOADERS[arguments.data]()
    real, labels = images[:10_000], labels[: arguments.count]
    model = keras.saving.load_model(arguments.model)
    done = set()
    if arguments.out.exists():
        done = {tuple(row[:4]) for row in csv.reader(arguments.out.open())}
    for scale, seed, steps, name in CELLS:
        cell = f"{scale:g}", str(seed), str(steps), name
        if cell in done:
            continue
        made = model.generate(
            labels,
            steps=steps,
            solver=SOLVERS[name],
            guidance=guidance.ClassifierFree(scale),
            seed=seed,
            batch_size=500,
        )
        row = *cell, f"{metrics.frechet_distance(made, real):.4f}"
        print(*row, flush=True)
        with arguments.out.open("a", newline="") as file:
            csv.writer(file).writerow(row)


if __name__ == "__main__":
    main()
