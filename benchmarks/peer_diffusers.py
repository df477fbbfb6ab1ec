"""The DiTTransformer2DModel of diffusers as a worker of compare.py: peer_diffusers.py FOLDER.

Its weights come from the file that facebookresearch/DiT's worker left, through our export. Two of
its numbers are set to theirs, so that the outputs can be compared; they cost the same.
"""

import contextlib
import pathlib
import sys
import warnings

import diffusers
import numpy as np
import peer
import torch

import keras_dit
from keras_dit.networks import preset_config


def network(folder, size, patch):
    heads = preset_config(f"dit_{size.lower()}_{patch}")["num_heads"]
    ours = keras_dit.weights.load(folder / "weights.pt", num_heads=heads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the two numbers are others there
        keras_dit.weights.export(ours, folder / "diffusers", format="diffusers")
    made = diffusers.DiTTransformer2DModel.from_pretrained(folder / "diffusers")
    for block in made.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return made.eval()


def prepare(what, size, patch, side, channels):
    if what == "training":
        return None  # it has no training step of its own
    folder = pathlib.Path(sys.argv[1])
    made, arrays = network(folder, size, patch), np.load(folder / "arrays.npz")
    x, t, y = (torch.from_numpy(arrays[name]) for name in "xty")

    def call():
        bfloat16 = "bfloat16" in what
        context = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with torch.inference_mode(), context:
            return made(x, timestep=t, class_labels=y).sample

    if what == "forward":
        peer.check_same(call().numpy(), arrays["output"])
    return call


if __name__ == "__main__":
    peer.serve(prepare)
