"""keras_dit as a worker of compare.py: python peer_ours.py FOLDER, under KERAS_BACKEND."""

import json
import pathlib
import sys
import time

import keras
import numpy as np
from keras import ops

import keras_dit
from keras_dit import backend
from keras_dit.cli import bench


def prepare(folder, what, size, patch, side, channels):
    dtype = "mixed_bfloat16" if "bfloat16" in what else "float32"
    network = keras_dit.weights.load(folder / "weights.pt", dtype=dtype, num_heads=_heads(size))
    arrays = np.load(folder / "arrays.npz")
    x = arrays["x"].transpose(0, 2, 3, 1)
    if what == "training":
        diffusion = keras_dit.Diffusion(network)
        diffusion.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.0))
        return bench.training_step(diffusion, len(x))
    if dtype == "float32":
        output = ops.convert_to_numpy(
            network(*map(ops.convert_to_tensor, (x, arrays["t"], arrays["y"].astype("int32"))))
        )
        difference = np.abs(output - arrays["output"].transpose(0, 2, 3, 1)).max()
        if not difference < 1e-4 * np.abs(arrays["output"]).max():
            raise SystemExit(f"outputs differ by {difference}")
    return bench.forward(network, len(x))


def _heads(size):
    return keras_dit.dit.SIZES[size.lower()][2]


def main():
    folder, call = pathlib.Path(sys.argv[1]), None
    for line in sys.stdin:
        request = json.loads(line)
        if request[0] == "prepare":
            call = prepare(folder, *request[1:])
            for _ in range(2):
                backend.synchronize(call())
            print("ANSWER true", flush=True)
        else:
            start = time.perf_counter()
            backend.synchronize(call())
            print("ANSWER", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
