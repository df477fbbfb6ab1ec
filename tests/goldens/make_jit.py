"""Make jit_{a,b}.npz: JiT's network, its loss and its sampling, run with random weights.

The foreign code is the folder JiT of king398/DiffusionFusion at commit 5209f29, a copy of
LTH14/JiT (imported from its own folder, never copied here), with einops and torch 2.13.0 on CPU.
Command:

    TORCHDYNAMO_DISABLE=1 python tests/goldens/make_jit.py FOLDER

FOLDER is that folder. Every weight is random and non-zero except `pos_embed`, which stays as the
class makes it. Eval mode, float32, NCHW. `loss` is that of given times and noise; `heun` and
`euler` are what its sampling makes of `noise` in ten steps, with guidance of 2.5 within (0.15, 1).
In b the noise has the scale 2. What the files hold: README.md here.
"""

import pathlib
import sys
import types
import unittest.mock

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
CONFIGS = {
    "a": {"input_size": 8, "patch_size": 4, "in_channels": 3, "hidden_size": 24, "depth": 3,
          "num_heads": 3, "num_classes": 4, "bottleneck_dim": 6, "in_context_len": 3,
          "in_context_start": 1},
    "b": {"input_size": 4, "patch_size": 2, "in_channels": 1, "hidden_size": 16, "depth": 2,
          "num_heads": 2, "num_classes": 3, "bottleneck_dim": 4, "in_context_len": 2,
          "in_context_start": 0},
}  # fmt: skip
SETTINGS = {
    "label_drop_prob": 0.1, "P_mean": -0.8, "P_std": 0.8, "t_eps": 0.05, "ema_decay1": 0.9999,
    "ema_decay2": 0.9996, "num_sampling_steps": 10, "cfg": 2.5, "interval_min": 0.15,
    "interval_max": 1.0, "attn_dropout": 0.0, "proj_dropout": 0.0,
}  # fmt: skip
SCALES = {"a": 1.0, "b": 2.0}


def import_denoiser(folder):
    """Its modules, which would put tables on a GPU."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    sys.path.insert(0, folder)
    import denoiser
    import model_jit

    return denoiser, model_jit


def make_denoiser(modules, name, generator):
    """Its `Denoiser` with a network whose every parameter but `pos_embed` is drawn."""
    denoiser, model_jit = modules
    config = CONFIGS[name]
    model_jit.JiT_models["small"] = lambda **kwargs: model_jit.JiT(**config)
    settings = types.SimpleNamespace(
        model="small", img_size=config["input_size"], class_num=config["num_classes"],
        noise_scale=SCALES[name], sampling_method="heun", **SETTINGS,
    )  # fmt: skip
    network = denoiser.Denoiser(settings).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if not key.endswith("pos_embed"):
                drawn = 0.15 * torch.randn(parameter.shape, generator=generator)
                gain = "norm" in key and key.endswith("weight")
                parameter.copy_(drawn + 1.0 if gain else drawn)
    return network


def sampled(network, noise, labels, method):
    """Its sampling run, from noise that is given."""
    network.method = method
    with unittest.mock.patch("torch.randn", return_value=noise):
        return network.generate(labels)


def loss(network, x, labels, t, noise):
    """Its loss of each image, at times and with noise that are given."""
    losses = []
    for one in range(len(x)):
        here = slice(one, one + 1)
        network.sample_t = lambda n, device, here=here: t[here]
        with unittest.mock.patch("torch.randn_like", return_value=noise[here]):
            losses.append(network(x[here], labels[here]))
    return torch.stack(losses)


def main(folder):
    """Write one file per configuration."""
    modules = import_denoiser(folder)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(seed)
        network = make_denoiser(modules, name, generator)
        side, channels, null = config["input_size"], config["in_channels"], config["num_classes"]

        def draw(count, channels=channels, side=side, generator=generator):
            return torch.randn((count, channels, side, side), generator=generator)

        x, cotangent, noise = draw(4).requires_grad_(), draw(4), draw(2)
        t, y = torch.tensor([0.0, 0.2, 0.71, 1.0]), torch.tensor([0, null, 1, null - 1])
        output = network.net(x, t, y)
        (output * cotangent).sum().backward()
        labels = torch.tensor([0, 2])
        arrays = network.state_dict() | {
            "run/x": x, "run/t": t, "run/y": y, "run/output": output, "run/cotangent": cotangent,
            "grad/x": x.grad, "run/noise": noise, "run/labels": labels,
            "run/heun": sampled(network, noise, labels, "heun"),
            "run/euler": sampled(network, noise, labels, "euler"),
            "run/loss_t": torch.tensor([0.1, 0.5, 0.93, 0.98]),
        }  # fmt: skip
        # The noise of the loss is the cotangent.
        arrays["run/loss"] = loss(network, x, y, arrays["run/loss_t"], cotangent)
        arrays = {key: value.detach().numpy() for key, value in arrays.items()}
        arrays |= {f"config/{key}": np.array(value) for key, value in config.items()}
        arrays |= {f"args/{key}": np.array(value) for key, value in SETTINGS.items()}
        arrays["args/noise_scale"] = np.array(SCALES[name])
        np.savez_compressed(HERE / f"jit_{name}.npz", **arrays)
        print(name, "output", arrays["run/output"].std(), "heun", arrays["run/heun"].std(),
              "loss", arrays["run/loss"])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
