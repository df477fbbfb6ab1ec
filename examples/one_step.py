"""Images in one evaluation of a network, beside a flow network's fifty: trained for equal time.

    python examples/one_step.py --out one_step
    python examples/one_step.py --data fashion-mnist --seconds 400 --seeds 0 --out one_step_clothes

Trains small networks of one size on the digits, or on 10,000 images of clothes, for the same
processor time each, from several seeds: flow matching, improved MeanFlow, MeanFlow by a difference
in the place of the derivative, and both of these from a flow network, half of the time each. Scores
their images after 1, 2, 4 and 50 evaluations at several scales of guidance. Prints a table, and
writes OUT/one_step.csv, which a second run goes on from, and the models.
"""

import argparse
import csv
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras

import keras_dit
from keras_dit import adapt, datasets, guidance, metrics, objectives, processes

MEANFLOW = processes.named("meanflow")
DIFFERENCE = objectives.MeanFlow(slope=objectives.BackwardDifference())
FLOW = processes.named("flow")
WAYS = {
    "flow": FLOW,
    "meanflow": MEANFLOW,
    "difference": dataclasses.replace(MEANFLOW, objective=DIFFERENCE),
}
TUNED = {"from flow": MEANFLOW.objective, "from flow, difference": DIFFERENCE}
EVALUATIONS = {"flow": (50,)}  # of the others:
FEW = (1, 2, 4, 50)
SCALES = (1.0, 1.15, 1.3, 1.5, 2.0)
COLUMNS = ("way", "seed", "seconds", "training steps", "evaluations", "guidance",
           "label agreement", "Frechet distance")  # fmt: skip
SIZE = {"hidden_size": 64, "depth": 3, "num_heads": 4}
PATCHES = {"digits": 2, "fashion-mnist": 7}


class Until(keras.callbacks.Callback):
    """Ends a training after some processor time, counted from the end of its first epoch."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.begun, self.steps = seconds, None, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.begun is not None and time.process_time() - self.begun > self.seconds:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.begun is None:
            self.begun = time.process_time()  # what was compiled does not count


def load(name):
    """What is trained on, and all that its distance is taken to: images and labels."""
    if name == "digits":
        everything = datasets.load_digits()
        return datasets.split(*everything, fraction=0.9)[0], everything
    clothes = [part[:10_000] for part in datasets.load_fashion_mnist()]
    return clothes, clothes


def fit(network, process, seed, seconds, data):
    """A model that is trained for so long, and how many steps that were."""
    model = keras_dit.Diffusion(network, process=process, ema=0.995)
    rise = keras.optimizers.schedules.PolynomialDecay(0.0, 75, end_learning_rate=1e-3)
    model.compile(keras.optimizers.AdamW(rise, beta_2=0.95, weight_decay=0.0))
    until = Until(seconds)
    batches = datasets.ImageBatches(*data, batch_size=64, seed=seed)
    model.fit(batches, epochs=100_000, verbose=0, callbacks=[until])
    return model, until.steps


def train(way, seed, seconds, data, patch_size):
    """The model that a way gives after so long, and how many steps that were."""
    keras.utils.set_random_seed(seed)
    process = WAYS.get(way, FLOW)
    parts = {"num_classes": 10, **SIZE, **process.network_parts()}
    network = keras_dit.DiTModel(data[0].shape[1:], patch_size, **parts)
    if way not in TUNED:
        return fit(network, process, seed, seconds, data)
    flow, first = fit(network, process, seed, seconds / 2, data)
    network, process = adapt.extend(flow.sampling_network(), process, TUNED[way])
    model, then = fit(network, process, seed, seconds / 2, data)
    return model, first + then


def scored(model, steps, scale, data, everything, count):
    """Label agreement and Fréchet distance of new images, as the demo has them."""
    told = "guidance" in model.network.conditions
    guided = guidance.Conditioned(scale) if told else guidance.ClassifierFree(scale)
    settings = {"steps": steps, "guidance": guided, "seed": 1, "batch_size": 600}
    labels = data[1][:count]
    made = model.generate(labels=labels, **settings)
    agreement = metrics.label_agreement(made, labels, *data)
    return float(agreement), float(metrics.frechet_distance(made, everything[0]))


def measure(arguments, way, seed, data, everything):
    """The rows of the table that one network gives."""
    model, steps = train(way, seed, arguments.seconds, data, PATCHES[arguments.data])
    model.save(arguments.out / f"{way.replace(' ', '_')}_{seed}.keras")
    for evaluations in EVALUATIONS.get(way, FEW):
        for scale in arguments.scales:
            scores = scored(model, evaluations, scale, data, everything, arguments.count)
            values = (way, seed, arguments.seconds, steps, evaluations, scale, *scores)
            yield dict(zip(COLUMNS, values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("one_step"))
    parser.add_argument("--seconds", type=float, default=150.0, help="of processor time, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of guidance")
    parser.add_argument("--count", type=int, default=1617, help="images to score")
    parser.add_argument("--data", choices=PATCHES, default="digits")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *TUNED], default=[*WAYS, *TUNED])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data, everything = load(arguments.data)
    file = arguments.out / "one_step.csv"
    rows = list(csv.DictReader(file.open())) if file.exists() else []
    for seed in arguments.seeds:
        for way in arguments.ways:
            if any((row["way"], row["seed"]) == (way, str(seed)) for row in rows):
                continue
            for row in measure(arguments, way, seed, data, everything):
                print(
                    *(f"{x:.4g}" if isinstance(x, float) else x for x in row.values()), flush=True
                )
                rows.append({name: str(value) for name, value in row.items()})
            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
