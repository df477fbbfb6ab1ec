"""Make lightningdit_{a,b}.npz: LightningDiT's network, run with random weights.

The foreign code is hustvl/LightningDiT at commit 2725fed (imported from its own folder, never
copied here) with timm, einops and torch 2.13.0 on CPU. Command:

    TORCHDYNAMO_DISABLE=1 python tests/goldens/make_lightningdit.py FOLDER

FOLDER is a checkout of that commit. Every weight is random and non-zero except `pos_embed` and
the rotary tables, which stay as the class makes them. a has the parts of the published networks
(SwiGLU, rotary positions, RMSNorm), b those that its configurations offer beside them (query-key
norm with LayerNorm, GELU). Eval mode, float32, NCHW. `sampled` is what its sampling program makes
of `noise`: Euler's method on t from 0 to 1, shifted by 0.3, guidance of 6.7 on three channels from
t = 0.125 on. What the files hold: README.md here.
"""

import itertools
import pathlib
import sys
import unittest.mock

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
CONFIGS = {
    "a": {"input_size": 4, "patch_size": 1, "in_channels": 5, "hidden_size": 24, "depth": 2,
          "num_heads": 3, "num_classes": 4, "use_swiglu": True, "use_rope": True,
          "use_rmsnorm": True},
    "b": {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16, "depth": 1,
          "num_heads": 2, "num_classes": 3, "use_qknorm": True},
}  # fmt: skip
POINTS, SHIFT, SCALE, START = 11, 0.3, 6.7, 0.125


def import_models(folder):
    """Its module; fairscale, which its file of the RMSNorm asks for, is not used by it."""
    for name in ("fairscale", "fairscale.nn", "fairscale.nn.model_parallel",
                 "fairscale.nn.model_parallel.initialize", "fairscale.nn.model_parallel.layers",
                 "torchvision", "torchvision.transforms", "torchvision.transforms.functional",
                 "torchvision.ops", "torchvision.ops.misc", "torchvision.datasets",
                 "torchvision.models", "torchvision.models.feature_extraction"):  # fmt: skip
        sys.modules[name] = unittest.mock.MagicMock()
    sys.path.insert(0, folder)
    from models import lightningdit

    return lightningdit


def make_network(models, config, generator):
    """Build a network whose every parameter but `pos_embed` is drawn from N(0, 0.15²)."""
    network = models.LightningDiT(**config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name != "pos_embed":
                drawn = 0.15 * torch.randn(parameter.shape, generator=generator)
                gain = "norm" in name and name.endswith("weight")
                parameter.copy_(drawn + 1.0 if gain else drawn)
    return network


def sampled(network, noise, labels, null):
    """Its sampling run: N points of time are N − 1 steps."""
    t = torch.linspace(0, 1, POINTS)
    t = SHIFT * t / (1 + (SHIFT - 1) * t)
    x, y = torch.cat([noise, noise]), torch.cat([labels, torch.full_like(labels, null)])
    with torch.no_grad():
        for here, there in itertools.pairwise(t):
            times = here.expand(len(x))
            velocity = network.forward_with_cfg(
                x, times, y, SCALE, cfg_interval=True, cfg_interval_start=START
            )
            x = x + (there - here) * velocity
    return x[: len(noise)]


def loss(output, target):
    """As in its transport/transport.py, under prediction velocity and use_cosine_loss."""
    cosine = torch.nn.functional.cosine_similarity(output, target, dim=1)
    return ((output - target) ** 2).flatten(1).mean(1) + (1 - cosine).flatten(1).mean(1)


def main(folder):
    """Write one file per configuration."""
    models = import_models(folder)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(seed)
        network = make_network(models, config, generator)
        side, channels, null = config["input_size"], config["in_channels"], config["num_classes"]
        x = torch.randn((4, channels, side, side), generator=generator, requires_grad=True)
        t, y = torch.tensor([0.0, 0.2, 0.71, 1.0]), torch.tensor([0, null, 1, null - 1])
        output = network(x, t, y)
        cotangent = torch.randn(output.shape, generator=generator)
        (output * cotangent).sum().backward()
        noise = torch.randn((2, channels, side, side), generator=generator)
        labels = torch.tensor([0, 2])
        arrays = network.state_dict() | {
            "run/x": x, "run/t": t, "run/y": y, "run/output": output, "run/cotangent": cotangent,
            "grad/x": x.grad, "run/noise": noise, "run/labels": labels,
            "run/sampled": sampled(network, noise, labels, null),
            "run/loss": loss(output, cotangent),
        }  # fmt: skip
        arrays = {key: value.detach().numpy() for key, value in arrays.items()}
        arrays |= {f"config/{key}": np.array(value) for key, value in config.items()}
        np.savez_compressed(HERE / f"lightningdit_{name}.npz", **arrays)
        print(name, "output std", arrays["run/output"].std(), arrays["run/sampled"].std())


if __name__ == "__main__":
    main(sys.argv[1])
