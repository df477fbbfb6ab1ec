"""Quality against patch size, model size, guidance, solver and number of images, in one figure.

    keras-dit demo --out demo
    python examples/quality.py demo/digits.keras --data digits --out quality

Five experiments on one data set: networks of several patch sizes, and of several sizes, that are
trained for the same processor time, each in a process of its own whose memory is measured; and of
the given model its guidance, its solvers and steps, and what the number of images does to a score.
Scores are Fréchet distances in the features of a small classifier of the data: no FID, which takes
the weights of Inception. Writes OUT/quality.csv, which a second run goes on from, and
OUT/quality.png. Needs matplotlib.
"""

import argparse
import csv
import multiprocessing
import os
import pathlib
import resource
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras
import numpy as np

import keras_dit
from keras_dit import evaluation, guidance, solvers
from keras_dit.evaluation import Plan

PATCHES = {"digits": (2, 4, 8), "fashion-mnist": (2, 4, 7)}  # which divide the image
WIDTHS = {"32 x 1": (32, 1), "64 x 2": (64, 2), "128 x 4": (128, 4), "192 x 6": (192, 6)}
SCALES = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
STEPS = (3, 5, 10, 20, 50)
SOLVERS = {"DDIM": solvers.DDIM(), "DPM-Solver++ 2M": solvers.DPMSolverPP2M(),
           "Heun": solvers.Heun()}  # fmt: skip
COUNTS = (100, 200, 400, 800, 1600)
EXPERIMENTS = {
    "patch": "patch size, trained for equal time",
    "size": "width x depth, trained for equal time",
    "guidance": "scale of guidance",
    "solver": "steps",
    "count": "1 / number of images",
}
GOOD = {"steps": 20, "solver": solvers.DPMSolverPP2M()}
COLUMNS = ("experiment", "setting", "value", "distance", "std", "precision", "recall",
           "epochs", "training images/s", "sampling images/s", "memory GB")  # fmt: skip
TITLES = {"distance": "Frechet distance of classifier features",
          "precision": "precision of classifier features",
          "recall": "recall of classifier features"}  # fmt: skip


class Until(keras.callbacks.Callback):
    """Ends a training after some processor time, counted from the end of its first epoch."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.begun, self.epochs = seconds, None, 0

    def on_epoch_end(self, epoch, logs=None):
        if self.begun is None:
            self.begun = time.process_time()  # what was compiled does not count
            return
        self.epochs, self.spent = epoch, time.process_time() - self.begun
        self.model.stop_training = self.spent > self.seconds


def train(data, patch_size, hidden_size, depth, seconds, path):
    """Train a network for so long; returns epochs, images a second and the memory it took."""
    batches = keras_dit.datasets.load(data, limit=5000)
    shape = batches.input_shape
    network = keras_dit.DiTModel(shape, patch_size, hidden_size, depth, 4, num_classes=10)
    model = keras_dit.Diffusion(network, process=keras_dit.processes.named("flow"), ema=0.995)
    model.compile(keras.optimizers.Adam(0.128 / hidden_size))
    until = Until(seconds)
    model.fit(batches, epochs=100_000, verbose=0, callbacks=[until])
    model.save(path)
    rate = until.epochs * len(batches) * batches.batch_size / until.spent
    return until.epochs, rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Laboratory:
    """The data with what scores it, and the table of what was measured."""

    def __init__(self, arguments):
        self.data, self.count, self.out = arguments.data, arguments.count, arguments.out
        self.seconds, self.model = arguments.seconds, None
        data = keras_dit.datasets.load(arguments.data)
        self.features = evaluation.open_features("classifier", data, verbose=True)
        self.reference = evaluation.reference(data, self.features)
        self.file = arguments.out / "quality.csv"
        self.rows = list(csv.DictReader(self.file.open())) if self.file.exists() else []

    def known(self, experiment, setting, value):
        """Whether that was measured before."""
        key = (experiment, str(setting), str(value))
        return any((r["experiment"], r["setting"], r["value"]) == key for r in self.rows)

    def add(self, experiment, setting, value, **numbers):
        """Keep a row of the table."""
        row = {"experiment": experiment, "setting": setting, "value": value, **numbers}
        self.rows.append({key: str(row.get(key, "")) for key in COLUMNS})
        print(*(f"{row[key]:.4g}" if isinstance(row[key], float) else row[key] for key in row))
        self.out.mkdir(parents=True, exist_ok=True)
        with self.file.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def scored(self, model, count=None, **settings):
        """The scores of new images, and how many are made in a second of processor time."""
        plan = Plan(num_images=count or self.count, batch_size=100, **{**GOOD, **settings})
        model.generate(labels=[0] * 100, steps=2, solver=plan.solver, guidance=plan.guidance)
        begun = time.process_time()
        report = evaluation.evaluate(model, self.reference, self.features, plan)
        spent = time.process_time() - begun
        scores = {name: report[title] for name, title in TITLES.items()}
        return {**scores, "sampling images/s": plan.num_images / spent}

    # The experiments

    def networks(self, experiment, sizes):
        """Train each network for the same time, and score it."""
        for name, (patch_size, hidden_size, depth) in sizes.items():
            if self.known(experiment, "", name):
                continue
            path = self.out / f"{experiment} {name}.keras"
            self.out.mkdir(parents=True, exist_ok=True)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                what = (self.data, patch_size, hidden_size, depth, self.seconds, path)
                epochs, rate, memory = pool.apply(train, what)
            found = self.scored(keras.saving.load_model(path))
            facts = {"epochs": epochs, "training images/s": rate, "memory GB": memory}
            self.add(experiment, "", name, **found, **facts)

    def patch(self):
        """Quality against patch size at equal time."""
        self.networks("patch", {str(p): (p, 128, 4) for p in PATCHES[self.data]})

    def size(self):
        """Quality against model size at equal time."""
        middle = PATCHES[self.data][0 if self.data == "digits" else 1]
        self.networks("size", {name: (middle, *size) for name, size in WIDTHS.items()})

    def guidance(self):
        """Quality against the scale of classifier-free guidance."""
        for scale in SCALES:
            if not self.known("guidance", "", scale):
                chosen = guidance.ClassifierFree(scale)
                self.add("guidance", "", scale, **self.scored(self.model, guidance=chosen))

    def solver(self):
        """Quality against steps, for several solvers."""
        for name, solver in SOLVERS.items():
            for steps in STEPS:
                if not self.known("solver", name, steps):
                    found = self.scored(self.model, solver=solver, steps=steps)
                    self.add("solver", name, steps, **found)

    def number(self):
        """The same images, in parts of several sizes: the score falls with the number."""
        counts = [n for n in COUNTS if not self.known("count", "", n)]
        if not counts:
            return
        most = max(COUNTS)
        labels = np.arange(most) % 10
        made = self.model.generate(labels=labels, batch_size=100, seed=1, **GOOD)
        pool = self.features(evaluation.as_bytes(made, self.model.codec))["pool"]
        real = self.reference.statistics.moments["pool"]
        for n in counts:
            parts = []
            for i in range(0, most - n + 1, n):
                moments = evaluation.Moments(pool.shape[1])
                moments.add(pool[i : i + n])
                between = moments.mean, moments.covariance, real.mean, real.covariance
                parts.append(evaluation.frechet_distance_from_moments(*between))
            self.add("count", "", n, distance=float(np.mean(parts)), std=float(np.std(parts)))


def points_of(name, rows):
    """{setting: points (x, distance)} of an experiment; the number of images as its inverse."""
    lines = {}
    for row in rows:
        if row["experiment"] == name:
            x = row["value"] if name in ("patch", "size") else float(row["value"])
            point = (1 / x if name == "count" else x, float(row["distance"]))
            lines.setdefault(row["setting"], []).append(point)
    return lines


def plot(rows, file):
    """A panel for each experiment, and everything with its speed in one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for place, (name, label) in zip(axes.flat, EXPERIMENTS.items()):
        lines = points_of(name, rows)
        for setting, points in lines.items():
            place.plot(*zip(*points), marker="o", markersize=4, label=setting or None)
        if any(lines):
            place.legend(fontsize=8)
        place.set(xlabel=label, ylabel="Fréchet distance")
        if name == "count":
            place.set(xlim=0)
            continue
        place.set(yscale="log")
        if name == "solver":
            place.set(xscale="log")
            place.set_xticks(STEPS, map(str, STEPS))
    speed = axes.flat[5]
    for name in EXPERIMENTS:
        of_it = [row for row in rows if row["experiment"] == name and row["sampling images/s"]]
        points = [(float(r["sampling images/s"]), float(r["distance"])) for r in of_it]
        if points:
            speed.plot(*zip(*points), "o", markersize=4, label=name)
    speed.set(yscale="log", xlabel="images a second", ylabel="Fréchet distance")
    speed.legend(fontsize=8)
    for place in axes.flat:
        place.grid(alpha=0.3)
        place.minorticks_off()
        if place.get_yscale() == "log":
            place.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            place.yaxis.set_major_formatter(ticker.ScalarFormatter())
    figure.savefig(file, dpi=80)


def main():
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .keras file of keras-dit demo or train")
    parser.add_argument("--data", choices=PATCHES, default="digits", help="that it is a model of")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("quality"))
    parser.add_argument("--count", type=int, default=2000, help="images for each point")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, a network")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS])
    arguments = parser.parse_args()
    laboratory = Laboratory(arguments)
    laboratory.model = keras.saving.load_model(arguments.model)
    for name in arguments.only:
        {"count": laboratory.number}.get(name, getattr(laboratory, name, None))()
    plot(laboratory.rows, arguments.out / "quality.png")


if __name__ == "__main__":
    main()
