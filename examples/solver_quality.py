"""Quality against number of network evaluations, for several solvers, as a figure.

    keras-dit demo --out demo
    python examples/solver_quality.py demo/digits.keras --out solver_quality

Makes as many new digits as there are real ones with each solver, in 5 to 51 evaluations of the
network, and measures their Fréchet distance to the real ones, in pixels; DDPM goes on to 251.
Writes OUT.csv, which a second run goes on from, and OUT.png. Needs matplotlib.
"""

import argparse
import csv
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras

import keras_dit
from keras_dit import metrics, solvers

SOLVERS = {
    "DDPM": solvers.DDPM(),
    "DDIM": solvers.DDIM(),
    "Heun": solvers.Heun(),
    "DPM-Solver++ 2M": solvers.DPMSolverPP2M(),
    "DPM-Solver++ 2M SDE": solvers.DPMSolverPP2MSDE(),
    "UniPC-3": solvers.UniPC(3),
}
EVALUATIONS = (5, 7, 11, 15, 21, 31, 51)
LONG = {"DDPM": (101, 251)}  # unless --evaluations says others


def distance(model, solver, evaluations, count):
    """The Fréchet distance of new digits to all real ones."""
    images, labels = keras_dit.datasets.load_digits()
    steps = (evaluations - 1) // solver.evaluations + 1  # the last step is one evaluation
    made = model.generate(labels[:count], steps=steps, solver=solver, seed=1, batch_size=600)
    return metrics.frechet_distance(made, images)


def measure(model, file, count, evaluations):
    """Rows (solver, evaluations, distance), read from the file where they are there already."""
    rows = list(csv.reader(file.open())) if file.exists() else []
    known = {(name, int(evaluations)) for name, evaluations, _ in rows}
    wanted = [(name, n) for n in evaluations or EVALUATIONS for name in SOLVERS]
    if evaluations is None:
        wanted += [(name, n) for name, counts in LONG.items() for n in counts]
    for name, n in wanted:
        if (name, n) not in known:
            rows.append((name, n, f"{distance(model, SOLVERS[name], n, count):.4f}"))
            print(*rows[-1], flush=True)
            with file.open("w", newline="") as target:
                csv.writer(target).writerows(rows)
    return rows


def plot(rows, floor, file):
    """One line for each solver, and the distance of one half of the real digits to the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in SOLVERS:
        points = sorted((int(n), float(score)) for solver, n, score in rows if solver == name)
        axes.plot(*zip(*points), marker="o", markersize=4, label=name)
    axes.axhline(floor, color="grey", linestyle=":", label="real digits, half to half")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="Fréchet distance")
    ticks = (*EVALUATIONS, 101, 251)
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5)))
    axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main():
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="digits.keras of `keras-dit demo`")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("solver_quality"))
    parser.add_argument("--count", type=int, default=1797, help="digits for each point")
    parser.add_argument("--evaluations", type=int, nargs="+", metavar="N", help="these alone")
    arguments = parser.parse_args()
    model = keras.saving.load_model(arguments.model)
    rows = measure(model, arguments.out.with_suffix(".csv"), arguments.count, arguments.evaluations)
    digits = keras_dit.datasets.load_digits()
    (half, _), (other, _) = keras_dit.datasets.split(*digits, fraction=0.5)
    floor = metrics.frechet_distance(half, other)
    print(f"real digits, half to half: {floor:.4f}")
    plot(rows, floor, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
