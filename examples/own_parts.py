"""Every part of keras_dit from outside of it: a condition, a block, a codec, an objective, a solver
and a weight format of one's own, trained, saved, loaded by a fresh process and sampled.

    KERAS_BACKEND=jax python examples/own_parts.py         # or torch, or tensorflow
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import json
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import ops

import keras_dit
from keras_dit import (
    codecs,
    conditions,
    layers,
    objectives,
    predictions,
    schedules,
    solvers,
    weights,
)

register = keras.saving.register_keras_serializable("own_parts")


@register
class Hour(conditions.Condition):
    """The hour of a day, 0 to 24, as a point on a circle; −1: not known."""

    def build(self, input_shape=None):
        self.map = keras.layers.Dense(self.hidden_size, dtype=self.dtype_policy, name="map")
        self.map.build((None, 3))

    def check(self, values, count=None):
        hours = np.array([-1.0 if value is None else value for value in values], "float32")
        if (hours < -1).any() or (hours > 24).any() or (count is not None and len(hours) != count):
            raise ValueError(f"{self.name} must be {count or 'some'} hours, 0 to 24: {values}")
        return hours

    def null(self, count):
        return np.full(count, -1.0, "float32")

    def embed(self, hours):
        known = ops.cast(hours >= 0, "float32")
        angle = hours * (2 * np.pi / 24)
        features = ops.stack([known * ops.cos(angle), known * ops.sin(angle), known], axis=-1)
        return conditions.Context(vector=self.map(ops.cast(features, self.compute_dtype)))


@register
@dataclass(frozen=True)
class Halved(codecs.Codec):
    """A Keras network that sees to it that the diffusion runs at half the size."""

    encoder: keras.Layer = field(default_factory=lambda: keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.AveragePooling2D(2)]))  # fmt: skip
    decoder: keras.Layer = field(default_factory=lambda: keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2DTranspose(1, 2, 2)]))  # fmt: skip
    low, high = -1.0, 1.0

    def encode(self, images, seed=None):
        return ops.cast(self.encoder(images), "float32")

    def decode(self, samples):
        return ops.convert_to_numpy(self.decoder(samples))

    def data_shape(self, sample_shape):
        height, width, channels = sample_shape
        return 2 * height, 2 * width, channels


@register
@dataclass(frozen=True)
class Consistent(objectives.Objective):
    """The flow's error, and how far two estimates of one trajectory are apart: two evaluations."""

    def sample_times(self, n, seed):
        return keras.random.uniform((n,), seed=seed)

    def loss(self, evaluate, batch, rates, process):
        earlier = process.schedule(0.9 * rates.t)
        first = evaluate(batch.noisy(rates), rates)
        second = evaluate(batch.noisy(earlier), earlier)
        target = process.prediction.target(batch.x0, batch.noise, rates)
        errors = ops.square(first - target) + 0.1 * ops.square(first - second)
        return ops.mean(errors, axis=(1, 2, 3))


@register
@dataclass(frozen=True)
class Damped(solvers.Solver):
    """DDIM that goes a share of each step's way by the estimate before."""

    share: float = 0.1

    def init(self, x):
        return ops.zeros_like(x)

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        mixed = (1 - self.share) * x0 + self.share * state
        return there.alpha * mixed + there.sigma / here.sigma * (x - here.alpha * mixed), x0


class Npz(weights.Format):
    """A published kind of DiT in numpy's own file, its configuration beside its tensors."""

    title, suffixes = "a .npz file", (".npz",)

    def detect(self, path):
        return path.suffix == ".npz"

    def open(self, path):
        arrays = dict(np.load(path))
        config = json.loads(str(arrays.pop("config")))
        tensors = {k: weights.Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}
        return weights.Source(str(path), config, tensors)

    def export(self, network, path):
        tensors = {name: stored.read() for name, stored in weights.layout.save(network).items()}
        np.savez(path, config=json.dumps(network.config), **tensors)


weights.register("npz", Npz())


def main(folder):
    keras.utils.set_random_seed(0)
    images, _ = keras_dit.datasets.load_digits()
    hours = np.random.default_rng(0).uniform(0, 24, len(images)).astype("float32")
    block = layers.AdaLNBlock(2, norm=layers.RMSNorm(), mlp=layers.SwiGLU(2.0))
    network = keras_dit.DiTModel((4, 4, 1), 2, 16, 2, conditions={"hour": Hour()}, block=block)
    process = keras_dit.Process(
        schedules.RectifiedFlow(), predictions.FlowVelocity(), Consistent())  # fmt: skip
    diffusion = keras_dit.Diffusion(network, process=process, codec=Halved(), ema=0.9)
    diffusion.compile(keras.optimizers.Adam(1e-3))
    losses = diffusion.fit(images, hours, batch_size=64, epochs=2, verbose=0).history["loss"]
    print("loss", losses)
    diffusion.save(folder / "own.keras")
    np.save(folder / "images.npy", sampled(diffusion))
    published = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=10)
    weights.export(published, folder / "own.npz", format="npz")
    again = keras_dit.DiTModel.from_preset(folder / "own.npz")
    print("the same from .npz:", again.config == published.config)


def sampled(diffusion):
    """Three images, one of them at no hour."""
    return diffusion.generate(
        conditions={"hour": [6.0, 18.5, None]},
        steps=5,
        solver=Damped(0.2),
        guidance=keras_dit.guidance.ClassifierFree(2.0),
    )


if __name__ == "__main__" and len(sys.argv) > 1:  # the fresh process
    folder = pathlib.Path(sys.argv[1])
    again = sampled(keras.saving.load_model(folder / "own.keras"))
    difference = np.abs(again - np.load(folder / "images.npy")).max()
    print("the same images after loading:", difference < 1e-5)
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(pathlib.Path(name))
        subprocess.run([sys.executable, __file__, name], check=True)
