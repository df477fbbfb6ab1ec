"""Quality against number of network evaluations, for several solvers: the figure of the README.

    python examples/solver_quality.py                  about 40 minutes on two CPU cores
    python examples/solver_quality.py --quick          a minute, to see that it runs

Trains the network of `keras-dit demo` on the embedded digits (kept as OUT/digits.keras and used
again), makes as many new digits as there are real ones with each solver in 5 to 50 evaluations of
the network, and measures their Fréchet distance to the real ones, in pixels. DDPM goes on to 250.
Writes OUT/solver_quality.csv, which a second run goes on from, and OUT/solver_quality.png. Needs
matplotlib.
"""

import argparse
import csv
import pathlib

import keras

import keras_dit
from keras_dit import metrics, predictions, schedules, solvers

SOLVERS = {
    "DDPM": solvers.DDPM(),
    "DDIM": solvers.DDIM(),
    "Heun": solvers.Heun(),
    "DPM-Solver++ 2M": solvers.DPMSolverPP2M(),
    "DPM-Solver++ 2M SDE": solvers.DPMSolverPP2MSDE(),
    "UniPC-3": solvers.UniPC(3),
}
EVALUATIONS = dict.fromkeys(SOLVERS, (5, 7, 11, 15, 21, 31, 51))
EVALUATIONS["DDPM"] += (101, 251)


def trained(file, epochs):
    """The model of a file, or a new one, trained and saved there."""
    if file.exists():
        return keras.saving.load_model(file)
    keras.utils.set_random_seed(0)
    images, labels = keras_dit.datasets.load_digits()
    network = keras_dit.DiTModel((8, 8, 1), 2, 128, 4, 4, num_classes=10)
    model = keras_dit.Diffusion(network, schedules.CosineBeta(), predictions.V())
    steps = epochs * (len(images) // 128)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=steps // 20
    )
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.0))
    batches = keras_dit.datasets.ImageBatches(images, labels, batch_size=128)
    model.fit(batches, epochs=epochs, verbose=2)
    model.save(file)
    return model


def distance(model, solver, evaluations, count, seed):
    """The Fréchet distance of new digits to all real ones."""
    images, labels = keras_dit.datasets.load_digits()
    steps = (evaluations - 1) // solver.evaluations + 1  # the last step is one evaluation
    made = model.generate(labels[:count], steps=steps, solver=solver, seed=seed, batch_size=600)
    return metrics.frechet_distance(made, images)


def measure(model, file, quick):
    """Rows (solver, evaluations, distance), read from the file where they are there already."""
    rows = list(csv.reader(file.open())) if file.exists() else []
    known = {(name, int(n)) for name, n, _ in rows}
    for name, solver in SOLVERS.items():
        for n in (5, 11) if quick else EVALUATIONS[name]:
            if (name, n) in known:
                continue
            score = distance(model, solver, n, 100 if quick else 1797, seed=1)
            rows.append((name, n, f"{score:.4f}"))
            print(*rows[-1], flush=True)
            with file.open("w", newline="") as target:
                csv.writer(target).writerows(rows)
    return rows


def plot(rows, floor, file):
    """One line for each solver, and the distance of one half of the real digits to the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in SOLVERS:
        points = sorted((int(n), float(score)) for solver, n, score in rows if solver == name)
        axes.plot(*zip(*points), marker="o", markersize=4, label=name)
    axes.axhline(floor, color="grey", linestyle=":", label="real digits, half to half")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="Fréchet distance")
    axes.set_xticks(ticks := [5, 7, 11, 15, 21, 31, 51, 101, 251], map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main():
    """Train, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("solver_quality"))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = trained(arguments.out / "digits.keras", epochs=1 if arguments.quick else 125)
    rows = measure(model, arguments.out / "solver_quality.csv", arguments.quick)
    digits = keras_dit.datasets.load_digits()
    (half, _), (other, _) = keras_dit.datasets.split(*digits, fraction=0.5)
    floor = metrics.frechet_distance(half, other)
    print(f"real digits, half to half: {floor:.4f}")
    plot(rows, floor, arguments.out / "solver_quality.png")


if __name__ == "__main__":
    main()
