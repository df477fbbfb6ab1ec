"""keras_dit as a worker of compare.py: peer_ours.py FOLDER, under KERAS_BACKEND."""

import pathlib
import sys

import keras
import numpy as np
import peer
from keras import ops

import keras_dit
from keras_dit import backend
from keras_dit.cli import bench
from keras_dit.networks import preset_config


def prepare(what, size, patch, side, channels):
    folder = pathlib.Path(sys.argv[1])
    dtype = "mixed_bfloat16" if "bfloat16" in what else "float32"
    heads = preset_config(f"dit_{size.lower()}_{patch}")["num_heads"]
    network = keras_dit.weights.load(folder / "weights.pt", dtype=dtype, num_heads=heads)
    arrays = np.load(folder / "arrays.npz")
    x = arrays["x"].transpose(0, 2, 3, 1)
    if what == "training":
        diffusion = keras_dit.Diffusion(network)
        diffusion.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.0))
        return bench.training_step(diffusion, len(x))
    if dtype == "float32":
        inputs = map(ops.convert_to_tensor, (x, arrays["t"], arrays["y"].astype("int32")))
        output = ops.convert_to_numpy(network(*inputs))
        peer.check_same(output, arrays["output"].transpose(0, 2, 3, 1))
    return bench.forward(network, len(x))


if __name__ == "__main__":
    peer.serve(prepare, backend.synchronize)
