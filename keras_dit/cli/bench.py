"""keras-dit bench: how fast this machine runs the network, beside what it could reach.

The floor of a network's time is that of its matrix products alone: the same backend multiplies
bare matrices of the same shapes, each weighted by how much of the network's arithmetic it is.
A training step counts as three forward passes of arithmetic.
"""

import time

import keras
import numpy as np
from keras import ops
from tqdm.auto import tqdm

from keras_dit import backend
from keras_dit.cli import common, options
from keras_dit.diffusion import Diffusion
from keras_dit.networks import PRESETS, DiTModel, multiply_adds, preset_config
from keras_dit.solvers import DDIM

HELP = "how fast this machine runs the network, beside its matrix products"
EXAMPLE = """\
Images a second through a forward pass and through a training step (AdamW and
average), the multiply-adds a second of the bare matrix products, and the share
of that rate which each reaches.

examples:
  keras-dit bench
  keras-dit bench dit_b_2 --input-shape 32,32,4 --dtype mixed_bfloat16"""


def add_arguments(command):
    command.add_argument("preset", nargs="?", default="dit_s_4", type=options.one_of(PRESETS))
    shape = "height,width,channels (default: 32,32,3)"
    command.add_argument("--input-shape", type=options.shape, default=(32, 32, 3), help=shape)
    command.add_argument("--batch-size", type=options.count, default=8)
    command.add_argument("--dtype", default="float32", help="such as mixed_bfloat16")


def run(arguments):
    backend.reuse_freed_memory()
    config = {
        **preset_config(arguments.preset),
        "input_shape": arguments.input_shape,
        "num_classes": 10,
    }
    network = DiTModel(**config, dtype=arguments.dtype)
    batch, work = arguments.batch_size, multiply_adds(config)
    rows = [("", "ms", "images/s", "GMAC/s", "of the products")]
    with tqdm(total=3, desc="measuring", leave=False) as bar:
        rate = product_rate(config, batch, network.compute_dtype)
        bar.update()
        times = {"forward": seconds(forward(network, batch))}
        bar.update()
        times["training step"] = seconds(training_step(Diffusion(network), batch))
        bar.update()
    for name, factor in (("forward", 1), ("training step", 3)):
        reached = factor * work * batch / times[name]
        rows.append(
            (
                name,
                f"{times[name] * 1e3:.1f}",
                f"{batch / times[name]:.1f}",
                f"{reached / 1e9:.0f}",
                f"{reached / rate:.0%}",
            )
        )
    rows.append(("matrix products", "", "", f"{rate / 1e9:.0f}", ""))
    print(f"{arguments.preset}, {backend.BACKEND} on {backend.device_name()}, batch {batch}, "
          f"{arguments.dtype}")  # fmt: skip
    print(common.table(rows))


def seconds(function, rounds=9, limit=8.0):
    """The least time of a call, warm, over some rounds or what fits into `limit` seconds."""
    for _ in range(3):  # torch takes its fast form at the third
        backend.synchronize(function())
    times, end = [], time.perf_counter() + limit
    while len(times) < 3 or (len(times) < rounds and time.perf_counter() < end):
        start = time.perf_counter()
        backend.synchronize(function())
        times.append(time.perf_counter() - start)
    return min(times)


def product_shapes(config, batch_size):
    """(how often, batch or None, rows, inner, columns) of a network's matrix products."""
    height, columns, _ = config["input_shape"]
    tokens = height * columns // config["patch_size"] ** 2
    width, depth, heads = config["hidden_size"], config["depth"], config["num_heads"]
    mlp, rows, head = int(width * config.get("mlp_ratio", 4.0)), batch_size * tokens, width // heads
    return [
        (depth, None, batch_size, width, 6 * width),  # modulation
        (depth, None, rows, width, 3 * width),  # queries, keys, values
        (depth, batch_size * heads, tokens, head, tokens),  # q kᵀ
        (depth, batch_size * heads, tokens, tokens, head),  # the weighted values
        (depth, None, rows, width, width),  # projection
        (depth, None, rows, width, mlp),
        (depth, None, rows, mlp, width),
    ]


def product_rate(config, batch_size, dtype="float32"):
    """Multiply-adds a second of a network's matrix products, bare, on this backend.

    Each is timed as an operation alone, compiled, and with a result in float32, and the fastest
    counts.

    Args:
        config: arguments of `DiTModel`.
        batch_size: images at once.
        dtype: of the matrices.
    """
    rng, work, time_taken = np.random.default_rng(0), 0, 0.0
    for times, batch, rows, inner, columns in product_shapes(config, batch_size):
        stack = () if batch is None else (batch,)
        pair = [
            ops.cast(rng.normal(size=(*stack, *shape)).astype("float32"), dtype)
            for shape in ((rows, inner), (inner, columns))
        ]
        forms = [ops.matmul, *map(backend.compile_inference, (ops.matmul, backend.product))]
        time_taken += times * min(seconds(lambda f=f, p=pair: f(*p), limit=1.0) for f in forms)
        work += times * (batch or 1) * rows * inner * columns
    return work / time_taken


def inputs(network, batch_size):
    """Images, times and labels, the same at every call, as numpy arrays."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(batch_size, *network.image_shape)).astype("float32")
    t = rng.uniform(0, 999, size=batch_size).astype("float32")
    y = rng.integers(0, network.num_classes, size=batch_size).astype("int32")
    return x, t, y


def forward(network, batch_size):
    """A function that runs one forward pass as a sampling run would, compiled for inference."""
    values = backend.compute_values(network, network.weights)
    x, t, y = map(ops.convert_to_tensor, inputs(network, batch_size))

    def call(values, x, t, y):
        with backend.holding(network, values):
            return network(x, t, y, training=False)

    compiled = backend.compile_inference(call)
    return lambda: compiled(values, x, t, y)


def training_step(diffusion, batch_size):
    """A function that makes one step of AdamW, the average with it, and returns the loss."""
    if not diffusion.compiled:
        diffusion.compile(keras.optimizers.AdamW(1e-4))
    x, _, y = inputs(diffusion.network, batch_size)
    return lambda: diffusion.train_on_batch(x, y)


def sampling(diffusion, batch_size, steps, guidance=None):
    """A function that makes images with DDIM."""
    _, _, labels = inputs(diffusion.network, batch_size)
    return lambda: diffusion.generate(
        labels=labels, steps=steps, solver=DDIM(), guidance=guidance, batch_size=batch_size
    )
