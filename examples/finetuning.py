"""Four new classes: a network that knows other digits, trained further, beside one trained anew.

    python examples/finetuning.py --out finetuning

A network learns the digits 0 to 5, or with --mirrored all ten. The new classes are 6 to 9, or four
digits mirrored left to right, which no network has seen. For each number of steps, two networks of
that size learn them: one that is resized from the first, one that is new. Both are trained alike;
each has the learning rate's schedule for its own number of steps. Prints a table, and writes
OUT/finetuning.csv, which a second run goes on from.
"""

import argparse
import csv
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras
import numpy as np

import keras_dit
from keras_dit import datasets, metrics, processes

SIZE = {"patch_size": 2, "hidden_size": 48, "depth": 2, "num_heads": 4}
MIRRORED = (2, 4, 5, 7)  # which then are no digits
COLUMNS = ("data", "way", "steps", "seed", "agreement", "distance", "seconds")


def data(mirrored):
    """(images, labels) of the classes to begin with, and (images, labels) of four new ones."""
    images, labels = datasets.load_digits()
    if not mirrored:
        old = labels < 6
        return (images[old], labels[old]), (images[~old], labels[~old] - 6)
    chosen = np.isin(labels, MIRRORED)
    new = np.searchsorted(MIRRORED, labels[chosen]).astype("int32")
    return (images, labels), (images[chosen][:, :, ::-1], new)


def train(network, images, labels, steps, seed, batch_size=64):
    """A model after so many steps."""
    keras.utils.set_random_seed(seed)
    model = keras_dit.Diffusion(network, process=processes.named("flow"), ema=0.99)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - steps // 20), warmup_target=2e-3, warmup_steps=max(1, steps // 20)
    )
    model.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0))
    draws = np.random.default_rng(seed).permuted(
        np.tile(np.arange(len(images)), (steps * batch_size // len(images) + 1, 1)), axis=1
    )
    chosen = draws.reshape(-1)[: steps * batch_size]
    batches = datasets.ImageBatches(images[chosen], labels[chosen], batch_size, shuffle=False)
    model.fit(batches, epochs=1, verbose=0)
    return model


def scores(model, real, count):
    """Label agreement and Fréchet distance of new digits, as many of each class as of real ones."""
    images, labels = real
    asked = np.resize(labels, count)
    made = model.generate(labels=asked, steps=25, seed=1, batch_size=200)
    return (
        metrics.label_agreement(made, asked, images, labels),
        metrics.frechet_distance(made, images),
    )


class Table:
    """What was measured, kept in a file."""

    def __init__(self, out):
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / "finetuning.csv"
        self.rows = list(csv.DictReader(self.file.open())) if self.file.exists() else []

    def known(self, *key):
        """Whether that was measured before."""
        return any(tuple(row[name] for name in COLUMNS[:4]) == key for row in self.rows)

    def add(self, *values):
        """Keep a row, and print it."""
        self.rows.append(dict(zip(COLUMNS, map(str, values))))
        print(*values)
        with self.file.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)


def base(out, name, old, steps, seed):
    """The network that knows other classes, trained once."""
    path = out / f"{name}-{seed}.keras"
    if not path.exists():
        begun = time.process_time()
        network = keras_dit.DiTModel((8, 8, 1), num_classes=int(old[1].max()) + 1, **SIZE)
        train(network, *old, steps, seed).save(path)
        print(f"{name}: {steps} steps in {time.process_time() - begun:.0f} s")
    return keras.saving.load_model(path).sampling_network()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, default="finetuning")
    add("--mirrored", action="store_true", help="all ten digits, and four of them mirrored")
    add("--base-steps", type=int, default=1000, help="of the network that knows other classes")
    add("--steps", type=int, nargs="+", default=[100, 200, 400, 800])
    add("--seeds", type=int, default=2)
    add("--count", type=int, default=400, help="images that are scored")
    chosen = parser.parse_args()
    table = Table(chosen.out)
    name = "ten-digits" if chosen.mirrored else "six-digits"
    old, new = data(chosen.mirrored)
    learned, held_back = datasets.split(*new, fraction=0.9)
    print(f"{name}, then {len(learned[0])} images of 4 new classes; real ones beside these:")
    agreement = metrics.label_agreement(*held_back, *learned)
    print(agreement, metrics.frechet_distance(held_back[0], learned[0]))
    print(*COLUMNS)
    for seed in range(chosen.seeds):
        known = base(chosen.out, name, old, chosen.base_steps, seed)
        for steps in chosen.steps:
            for way in ("further", "anew"):
                if table.known(name, way, str(steps), str(seed)):
                    continue
                keras.utils.set_random_seed(seed)
                if way == "further":
                    # The classes are others, whatever their numbers: none is kept.
                    network = keras_dit.adapt.resize(known, num_classes=4, keep={}, say=None)
                else:
                    network = keras_dit.DiTModel((8, 8, 1), num_classes=4, **SIZE)
                begun = time.process_time()
                model = train(network, *learned, steps, seed)
                spent = time.process_time() - begun
                found = scores(model, learned, chosen.count)
                table.add(name, way, steps, seed, *(f"{x:.4g}" for x in found), f"{spent:.0f}")


if __name__ == "__main__":
    main()
