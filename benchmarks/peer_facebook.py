"""facebookresearch/DiT as a worker of compare.py: peer_facebook.py DIT FOLDER eager|compiled.

It writes its weights, inputs and outputs to FOLDER, for the others to start from. Its training
step is that of its train.py on given noise: mean squared error, AdamW without decay, the average.
"""

import contextlib
import copy
import functools
import importlib.util
import pathlib
import sys
import unittest.mock

import numpy as np
import peer
import torch

BATCH = 8


def import_models(folder):
    """Its models.py; where torchvision is missing, a mock lets timm be imported."""
    if importlib.util.find_spec("torchvision") is None:
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc",
                     ".datasets", ".models", ".models.feature_extraction"):  # fmt: skip
            sys.modules["torchvision" + name] = unittest.mock.MagicMock()
    sys.path.insert(0, folder)
    import models

    return models


def network(models, size, patch, side, channels):
    torch.manual_seed(0)
    make = models.DiT_models[f"DiT-{size}/{patch}"]
    made = make(input_size=side, in_channels=channels, num_classes=1000, learn_sigma=False)
    for name, parameter in made.named_parameters():
        if "adaLN" in name or "final_layer" in name:  # new ones are zero, and would hide the rest
            torch.nn.init.normal_(parameter, std=0.02)
    return made.eval()


def forward(made, inputs, bfloat16):
    def call():
        context = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with torch.inference_mode(), context:
            return made(*inputs)

    return call


def training(made, inputs):
    x, t, y = inputs
    average = copy.deepcopy(made).requires_grad_(False)
    made.train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-4, weight_decay=0)

    def call():
        noise = torch.randn_like(x)
        loss = ((made(0.8 * x + 0.6 * noise, t, y) - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(average.parameters(), made.parameters()):
                old.mul_(0.9999).add_(new, alpha=1 - 0.9999)

    return call


def prepare(models, folder, mode, what, *case):
    """A function to time, or None for what is not measured so."""
    if mode == "compiled" and what != "forward":
        return None
    made = network(models, *case)
    side, channels = case[2], case[3]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, channels, side, side, generator=generator)
    t = torch.rand(BATCH, generator=generator) * 999
    y = torch.randint(0, 1000, (BATCH,), generator=generator)
    if mode == "eager":
        output = forward(made, (x, t, y), False)()
        torch.save(made.state_dict(), folder / "weights.pt")
        tensors = {"x": x, "t": t, "y": y, "output": output}
        np.savez(folder / "arrays.npz", **{name: value.numpy() for name, value in tensors.items()})
    if what == "training":
        return training(made, (x, t, y))
    made = torch.compile(made) if mode == "compiled" else made
    return forward(made, (x, t, y), "bfloat16" in what)


if __name__ == "__main__":
    models = import_models(sys.argv[1])
    peer.serve(functools.partial(prepare, models, pathlib.Path(sys.argv[2]), sys.argv[3]))
