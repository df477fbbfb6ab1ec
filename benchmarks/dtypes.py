"""What `sample --dtype` costs and gives: errors, size, and speed beside that of float32.

    KERAS_BACKEND=jax python benchmarks/dtypes.py MODEL.keras
    KERAS_BACKEND=jax python benchmarks/dtypes.py dit_s_2 --input-shape 32,32,4

An error is the root mean square of a difference as a share of the deviation: of the network's
output for the same noisy images at six times, and of samples of 50 steps of DDIM from the same
noise. Speed is that of a forward pass over float32's, the median of rounds in which all come in
turn, so that a busy machine slows all alike. A preset gets random weights: its speed is that of
trained ones, its errors are not.
"""

import argparse
import time

import numpy as np
from keras import ops

import keras_dit
from keras_dit import backend
from keras_dit.cli import bench, common, options
from keras_dit.cli.models import DTYPES
from keras_dit.networks import PRESETS

STEPS = 50


def opened(what, shape):
    """The model of a file, or a preset with random weights and straight lines."""
    if what not in PRESETS:
        return keras_dit.serialization.load_model(what)
    network = keras_dit.DiTModel.from_preset(what, input_shape=shape, num_classes=10)
    generator = np.random.default_rng(0)
    for weight in network.trainable_variables:  # of those that start at zero too
        if len(weight.shape) > 1:
            weight.assign(generator.standard_normal(weight.shape) * weight.shape[0] ** -0.5)
    return keras_dit.Diffusion(network, process=keras_dit.processes.named("flow"), ema=None)


def output(network, count):
    """The network's output for the same noisy images at six times."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((6 * count, *network.image_shape)).astype("float32")
    t = np.repeat(np.linspace(1, 999, 6), count).astype("float32")
    labels = None if network.num_classes is None else np.arange(len(t)) % network.num_classes
    return ops.convert_to_numpy(backend.compile_inference(network)(x, t, labels))


def samples(model, network, count):
    """Images of 50 steps from the same noise."""
    parts = {name: getattr(model, name) for name in ("process", "codec")}
    sampling = keras_dit.Diffusion(network, **parts, ema=None)
    return sampling.generate(num_images=count, steps=STEPS, batch_size=count)


def error(found, exact):
    """The root mean square of the difference as a share of the deviation."""
    return np.sqrt(np.mean((found - exact) ** 2)) / exact.std()


def held(network):
    """Bytes of its weights in memory."""
    items = (np.prod(weight.shape) * np.dtype(_plain(weight.dtype)).itemsize
             for weight in network.weights)  # fmt: skip
    return int(sum(items))


def _plain(dtype):
    return "float16" if dtype == "bfloat16" else dtype  # numpy knows no bfloat16


def seconds(function):
    """Of one call."""
    begun = time.perf_counter()
    backend.synchronize(function())
    return time.perf_counter() - begun


def main():
    """Print a row for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a .keras file or a preset")
    parser.add_argument("--input-shape", type=options.shape, default=(32, 32, 3))
    parser.add_argument("--batch-size", type=options.count, default=8)
    parser.add_argument("--samples", type=options.count, default=4)
    parser.add_argument("--rounds", type=options.count, default=7)
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="default: %(default)s")
    arguments = parser.parse_args()
    model = opened(arguments.model, arguments.input_shape)
    names = arguments.dtypes.split(",")
    networks = {name: model.sampling_network(name) for name in names}
    passes = [bench.forward(network, arguments.batch_size) for network in networks.values()]
    for call in passes:
        for _ in range(3):  # torch takes its fast form at the third
            seconds(call)
    times = np.array([[seconds(call) for call in passes] for _ in range(arguments.rounds)])
    speeds = np.median(times[:, :1] / times, axis=0)
    rows, exact = [(backend.BACKEND, "output", f"{STEPS} steps", "weights", "speed")], None
    for (name, network), speed in zip(networks.items(), speeds, strict=True):
        made = [output(network, 2), samples(model, network, arguments.samples)]
        exact = exact or made
        errors = [f"{error(one, other):.2%}" for one, other in zip(made, exact, strict=True)]
        rows.append((name, *errors, f"{held(network) / 1e6:.1f} MB", f"{speed:.2f}"))
    print(f"{arguments.model}, {backend.device_name()}, batch {arguments.batch_size}; errors of")
    print(common.table(rows))


if __name__ == "__main__":
    main()
