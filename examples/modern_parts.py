"""Modern parts beside DiT's own, trained for equal time on Fashion-MNIST, from several seeds.

    python examples/modern_parts.py --out modern_parts

Each network is 64 wide and 3 blocks deep and is trained for the same processor time, in patches of
4 pixels and of 7: DiT's own parts; RMSNorm, rotary positions, norms of queries and keys and SwiGLU
in their place; and the JiT, which adds a narrow patch embedding, tokens for the class and another
process. What each is worth: the loss on images that none was trained on, which is comparable where
the process is the same, and the Fréchet distance of 2000 images in the features of a small
classifier of the data (no FID, which takes the weights of Inception). Writes OUT/modern_parts.csv,
which a second run goes on from, and prints its mean and spread over the seeds.
"""

import argparse
import csv
import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras

import keras_dit
from keras_dit import evaluation, processes, solvers
from keras_dit.layers import RMSNorm
from keras_dit.networks.presets import jit_parts, modern_parts

HEADS = 4
FLOW, JIT = processes.named("flow"), processes.named("jit")
MODERN = modern_parts(HEADS, qk_norm=RMSNorm())
SMALL_JIT = jit_parts(HEADS, bottleneck=16, start=1, count=4)
WAYS = {  # name: size of a patch, process, parts
    "DiT, patch 4": (4, FLOW, {}),
    "modern, patch 4": (4, FLOW, MODERN),
    "DiT, patch 7": (7, FLOW, {}),
    "JiT, patch 7": (7, JIT, SMALL_JIT),
}
DISTANCES = {
    "classifier": "Frechet distance of classifier features",
    "pixels": "Frechet distance of pixels",
}
COLUMNS = ("way", "seed", "seconds", "training steps", "parameters", "loss", "Frechet distance")


class Until(keras.callbacks.Callback):
    """Ends a training after some processor time, counted from its twentieth step."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.begun, self.steps = seconds, 0.0, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == 20:
            self.begun = time.process_time()  # what was compiled does not count
        elif self.steps > 20 and time.process_time() - self.begun > self.seconds:
            self.model.stop_training = True


def load(name, seed=0):
    """Batches to train on, and (images, labels) that are held back."""
    if name == "digits":
        learned, held = keras_dit.datasets.split(*keras_dit.datasets.load_digits(), fraction=0.9)
        return keras_dit.datasets.ImageBatches(*learned, batch_size=64, seed=seed), held
    held = keras_dit.datasets.load_fashion_mnist(split="test")
    batches = keras_dit.datasets.load(name, batch_size=64, seed=seed)
    return batches, [part[:2000] for part in held]


def train(way, seed, seconds, batches):
    """A model that was trained for so long, and how many steps that were."""
    keras.utils.set_random_seed(seed)
    patch_size, process, parts = WAYS[way]
    network = keras_dit.DiTModel(
        batches.input_shape, patch_size, 64, depth=3, num_heads=HEADS, num_classes=10, **parts
    )
    model = keras_dit.Diffusion(network, process=process, ema=0.995)
    rise = keras.optimizers.schedules.PolynomialDecay(0.0, 100, end_learning_rate=1e-3)
    model.compile(keras.optimizers.AdamW(rise, beta_2=0.95, weight_decay=0.0))
    until = Until(seconds)
    model.fit(batches, epochs=1000, verbose=0, callbacks=[until])
    return model, until.steps


def main():
    """Measure what has not been measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("modern_parts"))
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=2000, help="images to score")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    data = {"choices": ("fashion-mnist", "digits"), "default": "fashion-mnist"}
    parser.add_argument("--data", **data, help="digits: quicker, in patches of 4 only")
    parser.add_argument("--features", choices=DISTANCES, default="classifier")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "modern_parts.csv"
    rows = list(csv.DictReader(file.open())) if file.exists() else []
    data, held = load(arguments.data)
    features = evaluation.open_features(arguments.features, data, verbose=True)
    reference = evaluation.reference(data, features)
    plan = evaluation.Plan(
        num_images=arguments.count, batch_size=200, steps=20, solver=solvers.DPMSolverPP2M()
    )
    for seed in arguments.seeds:
        for way in arguments.ways:
            if any((row["way"], row["seed"]) == (way, str(seed)) for row in rows):
                continue
            model, steps = train(way, seed, arguments.seconds, load(arguments.data, seed)[0])
            loss = model.evaluate(*held, batch_size=200, verbose=0)
            report = evaluation.evaluate(model, reference, features, plan)
            distance = report[DISTANCES[arguments.features]]
            count = model.network.count_params()
            values = (way, seed, arguments.seconds, steps, count, float(loss), float(distance))
            rows.append(dict(zip(COLUMNS, map(str, values))))
            print(*rows[-1].values(), sep=", ", flush=True)
            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    for way in dict.fromkeys(row["way"] for row in rows):
        of_it = [row for row in rows if row["way"] == way]
        cells = [f"{len(of_it)} seeds"]
        for name in ("training steps", "loss", "Frechet distance"):
            numbers = [float(row[name]) for row in of_it]
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            cells.append(f"{name} {statistics.mean(numbers):.4g} ± {spread:.2g}")
        print(way, *cells, sep=" | ")


if __name__ == "__main__":
    main()
