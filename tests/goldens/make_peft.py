"""Make peft/: adapters (LoRA) as peft saves them, and what the networks that wear them give.

With peft 0.21.2, diffusers 0.42.1 and torch 2.13.0 on CPU:

    python tests/goldens/make_peft.py

The networks are a DiT written here in plain torch under the tensor names of facebookresearch/DiT,
with the weights of facebook_dit_b.npz, and the one of weights/diffusers. Adapters are drawn from a
normal distribution. What the files hold: README.md here.
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn

sys.modules["torchvision"] = None  # one that does not fit that torch is as good as none
import diffusers  # noqa: E402
import peft  # noqa: E402

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "peft"
ADAPTERS = {
    # "proj" is the last map of the attention and, since peft matches ends of names, the patches'.
    "wide": {"r": 3, "lora_alpha": 6, "target_modules": ["qkv", "proj", "fc1", "fc2"]},
    "plain": {"r": 2, "lora_alpha": 1, "target_modules": ["qkv", "fc1"], "use_rslora": True},
    "classes": {
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["qkv", "mlp.2", "adaLN_modulation.1"],
        "alpha_pattern": {"qkv": 8},
        "modules_to_save": ["y_embedder.embedding_table"],
    },
}
WEIGHTS = {"wide": 0.7, "plain": -0.4}


class DiT(nn.Module):
    """One block of width 16 on 12 x 12 images of one channel in patches of 4, three classes."""

    def __init__(self, width=16, heads=2, patch=4, side=12, classes=3):
        super().__init__()
        self.heads, self.patch = heads, patch
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(1, width, patch, patch)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        maps = {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        mlp = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        block = {
            "attn": nn.ModuleDict(maps),
            "mlp": nn.ModuleDict(mlp),
            "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)),
        }
        self.blocks = nn.ModuleList([nn.ModuleDict(block)])
        final = {
            "linear": nn.Linear(width, patch * patch),
            "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width)),
        }
        self.final_layer = nn.ModuleDict(final)

    def forward(self, x, t, y):
        frequencies = torch.exp(-np.log(10000) * torch.arange(128) / 128)
        angles = t[:, None] * frequencies
        vector = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], -1))
        vector = vector + self.y_embedder["embedding_table"](y)
        tokens = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            parts = block["adaLN_modulation"](vector)[:, None].chunk(6, -1)
            tokens = tokens + parts[2] * self.attend(block["attn"], modulate(tokens, *parts[:2]))
            hidden = block["mlp"]["fc1"](modulate(tokens, *parts[3:5]))
            hidden = nn.functional.gelu(hidden, approximate="tanh")
            tokens = tokens + parts[5] * block["mlp"]["fc2"](hidden)
        last = self.final_layer
        patches = last["linear"](
            modulate(tokens, *last["adaLN_modulation"](vector)[:, None].chunk(2, -1))
        )
        side, p = int(tokens.shape[1] ** 0.5), self.patch
        image = patches.reshape(-1, side, side, p, p).permute(0, 1, 3, 2, 4)
        return image.reshape(-1, 1, side * p, side * p)

    def attend(self, attention, tokens):
        count, length, width = tokens.shape
        heads = attention["qkv"](tokens).reshape(count, length, 3, self.heads, -1)
        mixed = nn.functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        return attention["proj"](mixed.transpose(1, 2).reshape(count, length, width))


def modulate(x, shift, scale):
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def network():
    """The DiT with the published weights of facebook_dit_b.npz, and its inputs there."""
    model = DiT().eval()
    with np.load(HERE / "facebook_dit_b.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    model.load_state_dict({key: value for key, value in tensors.items() if "/" not in key})
    inputs = [tensors[f"run/{name}"] for name in "xty"]
    with torch.no_grad():  # it is the published network
        torch.testing.assert_close(model(*inputs), tensors["run/output"], rtol=1e-4, atol=1e-5)
    return model, inputs


def draw(model, generator):
    """Random numbers for the adapters and for what is trained whole."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def adapted(name, generator):
    """Save one adapter of the DiT; return its output."""
    model, inputs = network()
    model = peft.get_peft_model(model, peft.LoraConfig(**ADAPTERS[name])).eval()
    draw(model, generator)
    model.save_pretrained(FOLDER / name)
    with torch.no_grad():
        return model(*inputs)


def combined():
    """The output under a weighted sum of two of the adapters that were saved."""
    model, inputs = network()
    names = list(WEIGHTS)
    model = peft.PeftModel.from_pretrained(model, FOLDER / names[0], adapter_name=names[0]).eval()
    model.load_adapter(FOLDER / names[1], adapter_name=names[1])
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            for name, weight in WEIGHTS.items():
                if name in layer.scaling:
                    layer.set_scale(name, weight)
    model.base_model.set_adapter(names)
    with torch.no_grad():
        return model(*inputs)


def of_diffusers(generator):
    """Save an adapter of a DiT of diffusers; return its output."""
    folder = HERE / "weights"
    model = diffusers.DiTTransformer2DModel.from_pretrained(folder / "diffusers" / "transformer")
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear"]
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets)
    model = peft.get_peft_model(model, config).eval()
    draw(model, generator)
    model.save_pretrained(FOLDER / "diffusers")
    with np.load(folder / "diffusers.npz") as arrays, torch.no_grad():
        return model(*(torch.from_numpy(arrays[name]) for name in "xty")).sample


def main():
    """Write every file."""
    generator = torch.Generator().manual_seed(21)
    outputs = {name: adapted(name, generator) for name in ADAPTERS}
    outputs |= {"combined": combined(), "diffusers": of_diffusers(generator)}
    np.savez_compressed(FOLDER / "outputs.npz", **{k: v.numpy() for k, v in outputs.items()})
    for file in FOLDER.rglob("README.md"):
        file.unlink()  # a form that peft leaves empty
    print({name: float(output.std()) for name, output in outputs.items()})


if __name__ == "__main__":
    main()
