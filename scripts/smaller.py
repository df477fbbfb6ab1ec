"""The tables of docs/compression.md and docs/one-step.md: digits, on one core of a CPU.

    python scripts/smaller.py --steps 3000 --width 48

Trains a flow network, then: tunes it to few steps; trains a student of half its depth and one of
half its width, with it as the teacher and, for as many multiply-adds, alone; prunes it, and trains
what is left. Times are of the processor, and on a busy machine no measure. Each row is printed as
soon as it is known: a tenth of the digits, which no network saw, judges the labels; the distance is
Fréchet's, of 1000 images to all that were trained on.
"""

import argparse
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import keras_dit
from keras_dit import adapt, metrics, networks, objectives, processes, solvers

FLOW = processes.named("flow")
IMAGES, LABELS = keras_dit.datasets.load_digits()
HELD = np.arange(len(IMAGES)) % 10 == 0
ASKED = np.arange(1000) % 10


class Clock(keras.callbacks.Callback):
    """Seconds of the processor that steps took, without those until the first has ended."""

    seconds, begun = 0.0, None

    def on_train_batch_end(self, batch, logs=None):
        now = time.process_time()
        self.begun = self.begun or now
        self.seconds = now - self.begun


def train(diffusion, steps, rate, seed=0):
    """Train for so many steps of 64 images; the time of one in milliseconds."""
    keras.utils.set_random_seed(seed)
    epochs = max(1, round(steps / 26))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, epochs * 26 - 50), warmup_target=rate, warmup_steps=50
    )
    diffusion.compile(keras.optimizers.AdamW(schedule, weight_decay=0.0, global_clipnorm=1.0))
    clock = Clock()
    images, labels = IMAGES[~HELD], LABELS[~HELD]
    diffusion.fit(images, labels, batch_size=64, epochs=epochs, verbose=0, callbacks=[clock])
    return 1000 * clock.seconds / (epochs * 26 - 1)


def row(name, diffusion, steps=50, solver=None, note=""):
    """Sample and print what the images are worth."""
    solver = solver or solvers.DPMSolverPP2M()
    images = diffusion.generate(ASKED, steps=steps, solver=solver, seed=1, batch_size=500)
    agreement = metrics.label_agreement(images, ASKED, IMAGES[HELD], LABELS[HELD])
    distance = metrics.frechet_distance(
        images.reshape(len(images), -1), IMAGES[~HELD].reshape(-1, 64)
    )
    size = diffusion.network.count_params()
    facts = f"{size:,} | {100 * agreement:.1f} % | {distance:.3f} | {note}"
    print(f"| {name} | {steps} | {facts} |", flush=True)


def network(width, depth, patch):
    """A new network."""
    return keras_dit.DiTModel((8, 8, 1), patch, width, depth, 4, 10)


def few(whole, steps):
    """Consistency tuning, by some gaps."""
    for q, c in ((16.0, 0.01), (4.0, 0.01), (64.0, 0.01)):
        objective = objectives.Consistency(gap=objectives.TimeGap(q=q), c=c)
        tuned = keras_dit.Diffusion(
            whole.sampling_network(), process=FLOW, objective=objective, ema=0.99
        )
        took = train(tuned, steps, 3e-4)
        for count in (1, 2, 4):
            name = f"tuned {steps} steps, q={q:g}, c={c:g}"
            row(name, tuned, count, solvers.LCM(), f"{took:.1f} ms a step")


def students(whole, steps, width, depth, patch):
    """Students of half the depth and half the width, with a teacher and, as long, without."""
    for name, sizes in (
        ("half the depth", (width, depth // 2)),
        ("half the width", (width // 2, depth)),
    ):
        own, other = (
            networks.multiply_adds(net.get_config())
            for net in (network(*sizes, patch), whole.network)
        )
        # A step is three passes through the student, and one through the teacher.
        longer = round(steps * (1 + other / (3 * own)))
        for way, made in (("taught", steps), ("alone", longer)):
            objective = FLOW.objective
            if way == "taught":
                objective = objectives.Distillation(whole, FLOW.objective, share=0.8)
            student = keras_dit.Diffusion(
                network(*sizes, patch), process=FLOW, objective=objective, ema=0.99
            )
            took = train(student, made, 3e-3)
            row(f"{name}, {way}, {made} steps", student, note=f"{took:.1f} ms a step")


def smaller(whole, steps, depth):
    """Prune to half, by two scores, and train on."""
    probe = keras_dit.Diffusion(whole.sampling_network(), process=FLOW, ema=None)
    generator = np.random.default_rng(0)

    def loss():
        some = generator.choice(np.flatnonzero(~HELD), 64)
        return probe.compute_loss(IMAGES[some], keras.ops.convert_to_tensor(LABELS[some]))

    first = adapt.FirstOrder(loss, probe.variables, batches=4)
    units = probe.network.blocks[0].mlp.mlp_out.kernel.shape[0]
    for parts in ({"mlp": units // 2}, {"heads": 2}, {"depth": depth // 2}):
        for score in (adapt.Magnitude(), first):
            cut = adapt.prune(probe.network, **parts, score=score)
            name = f"{parts}, {type(score).__name__}"
            pruned = keras_dit.Diffusion(cut, process=FLOW, ema=0.99)
            row(name, pruned)
            train(pruned, steps, 1e-3)
            row(f"{name}, {steps} steps more", pruned)


def main():
    """Make all rows, or those that are asked for."""
    parser = argparse.ArgumentParser()
    for name, value in {"steps": 3000, "width": 48, "depth": 4, "patch": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--parts", default="few,students,smaller")
    asked = parser.parse_args()
    sizes = asked.width, asked.depth, asked.patch
    whole = keras_dit.Diffusion(network(*sizes), process=FLOW, ema=0.99)
    took = train(whole, asked.steps, 3e-3)
    for count, solver in ((50, None), (2, None), (1, None)):
        row(f"whole, {asked.steps} steps", whole, count, solver, f"{took:.1f} ms a step")
    for part in asked.parts.split(","):
        if part == "few":
            few(whole, asked.steps // 3)
        elif part == "students":
            students(whole, asked.steps // 2, *sizes)
        else:
            smaller(whole, asked.steps // 6, asked.depth)


if __name__ == "__main__":
    main()
