"""Make weights/: files as PyTorch, train.py and diffusers write them, and what their networks give.

The foreign code is facebookresearch/DiT at commit ed81ce2 and willisma/SiT at 947f95b (both under
licences of their own: imported from their own folders, never copied here), diffusers 0.42.1, timm
1.0.31 and torch 2.13.0 on CPU. Command:

    python tests/goldens/make_weights.py DIT_FOLDER SIT_FOLDER

The networks of facebookresearch/DiT and SiT have the weights of facebook_dit_c.npz. What the files
hold: README.md here.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import diffusers
import numpy as np
import torch
from make_facebook_dit import CONFIGS, OPTIONS, import_models

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "weights"


def state_dict():
    """Return the weights of facebook_dit_c.npz."""
    with np.load(HERE / "facebook_dit_c.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays if "/" not in key}


def make_network(models, kind):
    """Build the network of facebook_dit_c.npz, of the class DiT or SiT."""
    network = getattr(models, kind)(**dict(zip(OPTIONS, CONFIGS["c"], strict=True))).eval()
    network.load_state_dict(state_dict())
    return network


def inputs(channels, side, generator):
    """Return pictures and labels, of which two are the null class."""
    return torch.randn((5, channels, side, side), generator=generator), torch.tensor(
        [0, 1, 2, 1, 2]
    )


def save_torch(network):
    """Save a state dict in both containers, and a checkpoint as train.py does."""
    half = {key: value.half() for key, value in network.state_dict().items()}
    torch.save(half, FOLDER / "release_half.pt")
    torch.save(network.state_dict(), FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    wrapped = {
        f"module._orig_mod.{key}": -value.bfloat16() for key, value in network.state_dict().items()
    }
    optimizer = torch.optim.AdamW(network.final_layer.parameters(), lr=1e-4, weight_decay=0)
    network.final_layer(torch.ones(1, 4, 8), torch.ones(1, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    network.load_state_dict(state_dict())
    checkpoint = {
        "model": wrapped,  # another network than the average: its sign is turned
        "ema": network.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="DiT-XL/2", num_classes=2, ckpt=None, log_every=100),
    }
    torch.save(checkpoint, FOLDER / "train.pt")
    del checkpoint["ema"]
    torch.save(checkpoint, FOLDER / "train_without_ema.pt", _use_new_zipfile_serialization=False)


def run_sit():
    """Save inputs and output of a SiT, in a process of its own: its module too is `models`."""
    network = make_network(import_models(sys.argv[2]), "SiT")
    x, y = inputs(4, 4, torch.Generator().manual_seed(11))
    t = torch.tensor([0.0, 0.25, 0.6180339, 0.999, 1.0])
    with torch.no_grad():
        arrays = {"x": x, "t": t, "y": y, "output": network(x, t, y)}
    np.savez(FOLDER / "sit.npz", **{key: value.numpy() for key, value in arrays.items()})


def run_diffusers():
    """Save a network of diffusers with its pipeline's settings, and its inputs and outputs."""
    generator = torch.Generator().manual_seed(12)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=4, num_embeds_ada_norm=3,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    first = network.transformer_blocks[0].norm1.emb
    network.transformer_blocks[1].norm1.emb.load_state_dict(first.state_dict())
    folder = FOLDER / "diffusers"
    network.save_pretrained(folder / "transformer")
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    scheduler.save_pretrained(folder / "scheduler")
    x, y = inputs(4, 4, generator)
    t = torch.tensor([0.0, 1.5, 250.75, 731.0, 999.0])
    with torch.no_grad():
        arrays = {"x": x, "t": t, "y": y, "output": network(x, t, y).sample}
    np.savez(FOLDER / "diffusers.npz", **{key: value.numpy() for key, value in arrays.items()})


def main(dit_folder, sit_folder):
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    save_torch(make_network(import_models(dit_folder), "DiT"))
    run_diffusers()
    subprocess.run([sys.executable, __file__, "sit", sit_folder], check=True)
    print(json.dumps({str(f.relative_to(HERE)): f.stat().st_size for f in FOLDER.rglob("*.*")}))


if __name__ == "__main__":
    run_sit() if sys.argv[1] == "sit" else main(*sys.argv[1:])
