"""The DiffusionTransformer of artifex as a worker of compare.py: peer_artifex.py FOLDER MODE.

MODE is eager, as its demonstration runs it, or jit. It takes the weights of facebookresearch/DiT's
worker, read by keras_dit under JAX, and their time features in the place of its own, so that the
outputs can be compared.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peer
from artifex.generative_models.models.backbones.dit import DiffusionTransformer
from flax import nnx

import keras_dit
from keras_dit.networks import preset_config


def network(folder, size, patch, side, channels):
    config = preset_config(f"dit_{size.lower()}_{patch}")
    width, depth, heads = (config[name] for name in ("hidden_size", "depth", "num_heads"))
    ours = keras_dit.weights.load(folder / "weights.pt", num_heads=heads)
    made = DiffusionTransformer(
        side, patch, channels, width, depth, heads, num_classes=1000, rngs=nnx.Rngs(0)
    )
    made.pos_embed[...] = ours.positions.value[0]
    made.patch_embed.kernel[...] = jnp.reshape(
        ours.patches.projection.kernel.value, (patch, patch, channels, width)
    )
    made.patch_embed.bias[...] = ours.patches.projection.bias.value
    made.label_embed.embedding_table.embedding[...] = ours.label.table.value
    made.time_embed.timestep_embedding = time_features
    _dense(made.time_embed.mlp.layers[0], ours.time.mlp_in)
    _dense(made.time_embed.mlp.layers[2], ours.time.mlp_out)
    for theirs, block in zip(made.blocks, ours.blocks, strict=True):
        _block(theirs, block, heads)
    _dense(made.final_layer.adaLN_modulation.layers[1], ours.final.modulation)
    _dense(made.final_layer.linear, ours.final.projection)
    return made


def time_features(t):
    """Those of facebookresearch/DiT: cosines first, and another lowest frequency."""
    angle = t[:, None] * jnp.exp(-jnp.log(10000.0) * jnp.arange(128) / 128)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _dense(theirs, ours):
    theirs.kernel[...], theirs.bias[...] = ours.kernel.value, ours.bias.value


def _block(theirs, ours, heads):
    width = ours.attention.qkv.kernel.shape[0]
    kernels = jnp.split(ours.attention.qkv.kernel.value, 3, axis=1)
    biases = jnp.split(ours.attention.qkv.bias.value, 3)
    parts = theirs.attn.query, theirs.attn.key, theirs.attn.value
    for part, kernel, bias in zip(parts, kernels, biases, strict=True):
        part.kernel[...] = kernel.reshape(width, heads, -1)
        part.bias[...] = bias.reshape(heads, -1)
    theirs.attn.out.kernel[...] = ours.attention.projection.kernel.value.reshape(heads, -1, width)
    theirs.attn.out.bias[...] = ours.attention.projection.bias.value
    _dense(theirs.mlp.layers[0], ours.mlp_in)
    _dense(theirs.mlp.layers[2], ours.mlp_out)
    _dense(theirs.adaLN_modulation.layers[1], ours.modulation)


def training(made, x, t, y):
    """A step of AdamW on the squared error; it has no average."""
    optimizer = nnx.Optimizer(made, optax.adamw(1e-4, weight_decay=0.0), wrt=nnx.Param)

    @nnx.jit
    def step(made, optimizer, key):
        noise = jax.random.normal(key, x.shape)

        def loss(made):
            return jnp.mean((made(0.8 * x + 0.6 * noise, t, y, deterministic=True) - noise) ** 2)

        value, gradients = nnx.value_and_grad(loss)(made)
        optimizer.update(made, gradients)
        return value

    return lambda: step(made, optimizer, jax.random.key(0))


def prepare(what, *case):
    folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
    if "bfloat16" in what or (what == "training" and mode == "eager"):
        return None
    made, arrays = network(folder, *case), np.load(folder / "arrays.npz")
    x = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))
    t, y = jnp.asarray(arrays["t"]), jnp.asarray(arrays["y"].astype("int32"))
    if what == "training":
        return training(made, x, t, y)

    def forward(made, x, t, y):
        return made(x, t, y, deterministic=True)

    forward = nnx.jit(forward) if mode == "jit" else forward
    peer.check_same(np.asarray(forward(made, x, t, y)), arrays["output"].transpose(0, 2, 3, 1))
    return lambda: forward(made, x, t, y)


if __name__ == "__main__":
    peer.serve(prepare, jax.block_until_ready)
