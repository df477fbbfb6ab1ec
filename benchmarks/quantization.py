"""What int8 and int4 cost and give: error of the output, size, and time as a share of float32's.

    KERAS_BACKEND=jax python benchmarks/quantization.py MODEL.keras [ROUNDS]

One run measures all in turn, so that a busy machine slows all alike; a time is the median of its
rounds over that of float32 in the same rounds.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np
from keras import ops

import keras_dit
from keras_dit import backend

MODES, STEPS, COUNT = ("float32", "int8", "int4"), 10, 16


def opened(model, mode):
    """A model of the sampling network in that mode."""
    network = model.sampling_network()
    if mode != "float32":
        network.quantize(mode)
    parts = {name: getattr(model, name) for name in ("process", "codec")}
    return keras_dit.Diffusion(network, **parts, ema=None)


def output(model):
    """The network's output for the same noisy images at six times."""
    network, generator = model.network, np.random.default_rng(0)
    shape = (6 * COUNT, *network.image_shape)
    x = generator.standard_normal(shape).astype("float32")
    t = np.repeat(np.linspace(1, 999, 6), COUNT).astype("float32")
    labels = None if network.num_classes is None else np.arange(len(t)) % network.num_classes
    return ops.convert_to_numpy(backend.compile_inference(network)(x, t, labels))


def file_size(model):
    """Bytes of its `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "it.keras"
        model.save(path)
        return path.stat().st_size


def held(model):
    """Bytes of its weights in memory."""
    return sum(ops.convert_to_numpy(weight).nbytes for weight in model.network.weights)


def seconds(model):
    """Of one run of the sampler."""
    begun = time.perf_counter()
    model.generate(num_images=COUNT, steps=STEPS, batch_size=COUNT)
    return time.perf_counter() - begun


def main(path, rounds=7):
    """Print a line for each mode."""
    trained = keras_dit.serialization.load_model(path)
    models = {mode: opened(trained, mode) for mode in MODES}
    outputs = {mode: output(model) for mode, model in models.items()}
    for model in models.values():
        seconds(model)  # compiled
    times = np.array([[seconds(model) for model in models.values()] for _ in range(int(rounds))])
    shares = np.median(times / times[:, :1], axis=0)
    exact = outputs["float32"]
    for (mode, model), share in zip(models.items(), shares, strict=True):
        error = np.sqrt(np.mean((outputs[mode] - exact) ** 2)) / exact.std()
        print(
            f"{backend.BACKEND} {mode}: error {error:.4f}, file {file_size(model) / 1e6:.2f} MB, "
            f"weights {held(model) / 1e6:.2f} MB, time {share:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
