"""A Diffusion Transformer in plain numpy float64, gradients, and an objective without chance.

The network is written from the paper (Peebles, Xie 2023) without a line of keras_dit;
`test_dit.py` holds it against facebookresearch/DiT, so that it can stand for it elsewhere.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.objectives import Objective


def path(network, variable):
    """The name of a network's variable without the network's own: "block_0/mlp_in/kernel"."""
    return variable.path.removeprefix(network.name + "/")


def weights_of(network):
    return {path(network, v): np.array(ops.convert_to_numpy(v)) for v in network.weights}


def set_weights(network, weights):
    for variable in network.weights:
        variable.assign(weights[path(network, variable)])


def draw_weights(network, scale=0.2, seed=0):
    """Give every weight but the fixed positions a normal value, the same on every backend."""
    generator = np.random.default_rng(seed)
    for variable in network.trainable_weights:
        variable.assign(scale * generator.standard_normal(variable.shape).astype("float32"))
    return network


def run(layer, *inputs):
    """A layer's output outside training, as numpy."""
    if keras.config.backend() == "jax":  # which else compiles each operation for each shape
        layer = backend.compile_inference(layer)
    inputs = [None if value is None else ops.convert_to_tensor(value) for value in inputs]
    return ops.convert_to_numpy(layer(*inputs))


def gradients(function, *arrays):
    """∂ function / ∂ array for each array, by the backend; function gives a scalar tensor.

    One step of SGD at rate 1 moves a weight by minus its gradient.
    """
    moves = Moves([np.shape(array) for array in arrays])
    arrays = [np.asarray(array, "float32") for array in arrays]
    Trainer([moves], lambda: function(*(m + a for a, m in zip(arrays, moves.values)))).step()
    return [-ops.convert_to_numpy(move) for move in moves.values]


class Moves(keras.layers.Layer):
    """Weights at zero."""

    def __init__(self, shapes):
        super().__init__(dtype="float32")
        self.values = [self.add_weight(shape=shape, initializer="zeros") for shape in shapes]
        self.built = True

    def call(self):
        return self.values


class Trainer(keras.Model):
    """Minimises a function without arguments of some layers' weights by SGD at rate 1."""

    def __init__(self, layers, loss):
        super().__init__()
        self.parts = layers
        self.loss_function = loss
        self.built = True

    def call(self, x):
        return x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.loss_function()

    def step(self):
        self.compile(keras.optimizers.SGD(1.0))
        return self.train_on_batch(np.zeros((1, 1), "float32"))


@keras.saving.register_keras_serializable("tests")
@dataclass(frozen=True)
class Reconstruction(Objective):
    """The output has to be x0 at t = 0, where a rectified flow has no noise: nothing is random."""

    def sample_times(self, n, seed):
        return ops.zeros((n,), "float32")

    def loss(self, evaluate, batch, rates, process):
        output = evaluate(batch.noisy(rates), rates)
        return ops.mean(ops.square(output - batch.x0), axis=(1, 2, 3))


# The network


def dit(weights, x, t, y, patch_size, num_heads):
    """The output (B, H, W, O) of the network with these weights, float64.

    Args:
        weights: by name, as `weights_of` gives them.
        x: (B, H, W, C).
        t: (B,).
        y: (B,) of labels, the null label included; None for a network without them.
    """
    w = {name: np.asarray(value, "float64") for name, value in weights.items()}
    tokens = dense(w, "patches/projection", patches(np.asarray(x, "float64"), patch_size))
    tokens = tokens + w["positions"]
    condition = dense(w, "time/mlp_out", silu(dense(w, "time/mlp_in", time_features(t))))
    if y is not None:
        condition = condition + w["label/table"][np.asarray(y)]
    depth = sum(name.endswith("attention/qkv/kernel") for name in w)
    for i in range(depth):
        tokens = block(w, f"block_{i}", tokens, condition, num_heads)
    shift, scale = modulation(w, "final", condition, 2)
    rows = dense(w, "final/projection", normalize(tokens) * (1 + scale) + shift)
    return picture(rows, x.shape[1], x.shape[2], patch_size)


def block(w, name, x, condition, num_heads):
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation(w, name, condition, 6)
    h = normalize(x) * (1 + scale1) + shift1
    x = x + gate1 * self_attention(w, f"{name}/attention", h, num_heads)
    h = dense(w, f"{name}/mlp/mlp_in", normalize(x) * (1 + scale2) + shift2)
    return x + gate2 * dense(w, f"{name}/mlp/mlp_out", gelu(h))


def modulation(w, name, condition, parts):
    return np.split(dense(w, f"{name}/modulation", silu(condition))[:, None], parts, axis=-1)


def self_attention(w, name, x, num_heads):
    q, k, v = np.split(dense(w, f"{name}/qkv", x), 3, axis=-1)
    heads = [
        attention(*parts) for parts in zip(*(np.split(p, num_heads, axis=-1) for p in (q, k, v)))
    ]
    return dense(w, f"{name}/projection", np.concatenate(heads, axis=-1))


def attention(q, k, v):
    """softmax(q kᵀ / √d) v over the last two axes."""
    logits = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def dense(w, name, x):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def normalize(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def time_features(t, size=256, shift=0):
    half = size // 2
    frequency = np.exp(-math.log(10000) * np.arange(half) / (half - shift))
    angle = np.asarray(t, "float64")[:, None] * frequency
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)


def patches(images, p):
    """(B, H, W, C) -> (B, T, p p C), one patch at a time."""
    _, height, width, _ = images.shape
    cut = [
        images[:, i : i + p, j : j + p].reshape(len(images), -1)
        for i in range(0, height, p)
        for j in range(0, width, p)
    ]
    return np.stack(cut, axis=1)


def picture(rows, height, width, p):
    """The inverse of `patches`."""
    images = np.zeros((len(rows), height, width, rows.shape[-1] // p**2))
    corners = [(i, j) for i in range(0, height, p) for j in range(0, width, p)]
    for place, (i, j) in enumerate(corners):
        images[:, i : i + p, j : j + p] = rows[:, place].reshape(len(rows), p, p, -1)
    return images
