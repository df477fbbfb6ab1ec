"""Make facebook_dit_{a,b,c}.npz: the published DiT network, run with random weights.

The foreign code is facebookresearch/DiT at commit ed81ce2 (non-commercial licence: imported from
its own folder, never copied here) with timm 1.0.31 and torch 2.13.0 on CPU. Command:

    python tests/goldens/make_facebook_dit.py DIT_FOLDER

DIT_FOLDER is a checkout of that commit. Every weight is random and non-zero except `pos_embed`,
which stays as the class makes it. Eval mode, float32, NCHW. What the files hold: README.md here.
"""

import importlib.util
import pathlib
import sys
import unittest.mock

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
OPTIONS = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads",
           "num_classes", "learn_sigma")  # fmt: skip
CONFIGS = {
    "a": (8, 2, 3, 24, 2, 3, 5, True),
    "b": (12, 4, 1, 16, 1, 2, 3, False),
    # The published latents have four channels, of which classifier-free guidance moves three.
    "c": (4, 2, 4, 8, 1, 2, 2, True),
}
GRADIENTS = (
    "blocks.0.attn.qkv.weight",
    "blocks.0.adaLN_modulation.1.weight",
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
    "t_embedder.mlp.0.weight",
)


def import_models(folder):
    """Import DiT's models.py; where torchvision is missing, a mock lets timm be imported."""
    if importlib.util.find_spec("torchvision") is None:  # timm names it in code that is not run
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc",
                     ".datasets", ".models", ".models.feature_extraction"):  # fmt: skip
            sys.modules["torchvision" + name] = unittest.mock.MagicMock()
    sys.path.insert(0, folder)
    import models

    return models


def make_network(models, config, generator):
    """Build a DiT whose every weight but `pos_embed` is drawn from N(0, 0.15^2)."""
    network = models.DiT(**config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "pos_embed":
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return network


def run(network, config, generator):
    """Return inputs and output."""
    null = config["num_classes"]
    size = (6, config["in_channels"], config["input_size"], config["input_size"])
    x = torch.randn(size, generator=generator)
    t = torch.tensor([0.0, 1.5, 250.75, 499.0, 731.0, 999.0])
    y = torch.tensor([0, null, 1, null - 1, null, 1])
    return {"run/x": x, "run/t": t, "run/y": y, "run/output": network(x, t, y)}


def run_gradients(network, x, t, y, generator):
    """Return the gradients of sum(output * cotangent)."""
    x = x.clone().requires_grad_()
    output = network(x, t, y)
    cotangent = torch.randn(output.shape, generator=generator)
    (output * cotangent).sum().backward()
    gradients = {f"grad/{name}": network.get_parameter(name).grad for name in GRADIENTS}
    return {"run/cotangent": cotangent, "grad/x": x.grad} | gradients


def run_guided(network, config, generator):
    """Return forward_with_cfg at scale 4: labels in the first half, the null class in the rest."""
    null, n = config["num_classes"], 2
    size = (n, config["in_channels"], config["input_size"], config["input_size"])
    x = torch.randn(size, generator=generator).repeat(2, 1, 1, 1)
    t = torch.tensor([999.0, 321.5]).repeat(2)
    y = torch.tensor([0, null - 1, null, null])
    with torch.no_grad():
        output = network.forward_with_cfg(x, t, y, 4.0)
    return {"cfg/x": x, "cfg/t": t, "cfg/y": y, "cfg/scale": torch.tensor(4.0),
            "cfg/output": output}  # fmt: skip


def main(folder):
    """Write one file per configuration."""
    models = import_models(folder)
    for seed, (name, values) in enumerate(CONFIGS.items()):
        config = dict(zip(OPTIONS, values, strict=True))
        generator = torch.Generator().manual_seed(seed)
        network = make_network(models, config, generator)
        arrays = network.state_dict() | (case := run(network, config, generator))
        if name in "ab":
            x, t, y = (case[f"run/{key}"] for key in "xty")
            arrays |= run_gradients(network, x, t, y, generator)
        if name in "ac":
            arrays |= run_guided(network, config, generator)
        arrays = {key: value.detach().numpy() for key, value in arrays.items()}
        arrays |= {f"config/{key}": np.array(value) for key, value in config.items()}
        np.savez_compressed(HERE / f"facebook_dit_{name}.npz", **arrays)
        print(name, "output std", arrays["run/output"].std())


if __name__ == "__main__":
    main(sys.argv[1])
