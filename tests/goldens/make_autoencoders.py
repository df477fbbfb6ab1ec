"""Make autoencoders.npz: what the autoencoders of diffusers give, small, of every family.

The foreign code is diffusers 0.42.1 (Apache 2.0) with torch on CPU. Command:

    python tests/goldens/make_autoencoders.py

Their weights, images and latents are those of tests/autoencoder_weights.py. For each family the
file holds what diffusers writes as config.json, the names and shapes of its tensors, the mean and
the log variance of two images, and the images of two latents, all channels last. Of AutoencoderKL
it holds too how each tensor is called in CompVis's layout, as the conversion of diffusers reads it.
"""

import json
import pathlib
import sys

import diffusers
import numpy as np
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from autoencoder_weights import images, tensor  # noqa: E402

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
BARE = {"use_quant_conv": False, "use_post_quant_conv": False}
ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
FAMILIES = {  # XL is Stable Diffusion with another scale, Flux is 3 with others
    "stable_diffusion": {"layers_per_block": 2, "scaling_factor": 0.18215},
    "stable_diffusion_3": {
        "block_out_channels": (4, 8, 8), "latent_channels": 16, "scaling_factor": 1.5305,
        "shift_factor": 0.0609, **BARE,
    },
    "without_attention": {"mid_block_add_attention": False, "in_channels": 1, "out_channels": 1},
    "attention_in_levels": {"latent_channels": 8, **ATTENTION},
}  # fmt: skip
TINY = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 2),
    "num_decoder_blocks": (2, 1, 1),
}


def kl(settings):
    settings = SMALL | settings
    levels = len(settings["block_out_channels"])
    settings.setdefault("down_block_types", ("DownEncoderBlock2D",) * levels)
    settings.setdefault("up_block_types", ("UpDecoderBlock2D",) * levels)
    return diffusers.AutoencoderKL(**settings)


def channels_first(array):
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def channels_last(result):
    return result.numpy().transpose(0, 2, 3, 1)


@torch.no_grad()
def record(network):
    """What a network of diffusers gives with the weights of the formula."""
    state = network.state_dict()
    network.load_state_dict({k: torch.from_numpy(tensor(k, v.shape)) for k, v in state.items()})
    network.eval()
    config = json.loads(network.to_json_string())
    factor = 2 ** (len(config.get("block_out_channels", ())) - 1)
    pictures = images((2, 2 * factor, 3 * factor, config["in_channels"]))
    latents = 2 * images((2, 2, 3, config["latent_channels"]))
    encoded = network.encode(channels_first(pictures))
    arrays = {"decoded": channels_last(network.decode(channels_first(latents)).sample)}
    if hasattr(encoded, "latents"):
        arrays["mean"] = channels_last(encoded.latents)
    else:
        arrays["mean"] = channels_last(encoded.latent_dist.mean)
        arrays["log_variance"] = channels_last(encoded.latent_dist.logvar)
        arrays["compvis"] = json.dumps(compvis_names(state, config))
    arrays["config"] = json.dumps(config)
    arrays["shapes"] = json.dumps({name: list(value.shape) for name, value in state.items()})
    return arrays


def compvis_names(state, config):
    """{name of diffusers: CompVis's name}: where the conversion of diffusers puts each tensor."""
    if any("attentions" in name and "mid_block" not in name for name in state):
        return {}  # the conversion knows attention in the middle only
    names = [f"{name}.{part}" for name in compvis_layers(config) for part in ("weight", "bias")]
    marked = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    converted = convert_ldm_vae_checkpoint(marked, config)
    found = {name: names[int(mark)] for name, mark in converted.items()}
    kept = {name: found[name] for name in state if name in found}
    assert set(found) == set(state) == set(kept), set(found) ^ set(state)
    return kept


def compvis_layers(config):
    """The layers of CompVis's Encoder and Decoder with that configuration, by their names."""
    channels, blocks = config["block_out_channels"], config["layers_per_block"]
    for half, path, count in (("encoder", "down", blocks), ("decoder", "up", blocks + 1)):
        yield from (f"{half}.{name}" for name in ("conv_in", "norm_out", "conv_out"))
        order = range(len(channels)) if path == "down" else reversed(range(len(channels)))
        before = channels[0] if path == "down" else channels[-1]
        for level in order:
            for i in range(count):
                yield from residual(f"{half}.{path}.{level}.block.{i}", before, channels[level])
                before = channels[level]
            if level != (len(channels) - 1 if path == "down" else 0):
                yield f"{half}.{path}.{level}.{path}sample.conv"
        for block in ("block_1", "block_2"):
            yield from residual(f"{half}.mid.{block}", 0, 0)
        if config["mid_block_add_attention"]:
            yield from (f"{half}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out"))
    if config["use_quant_conv"]:
        yield from ("quant_conv", "post_quant_conv")


def residual(name, before, after):
    yield from (f"{name}.{part}" for part in ("norm1", "conv1", "norm2", "conv2"))
    if before != after:
        yield f"{name}.nin_shortcut"


def main():
    arrays = {}
    networks = {name: kl(settings) for name, settings in FAMILIES.items()}
    networks["tiny"] = diffusers.AutoencoderTiny(**TINY)
    for family, network in networks.items():
        for name, value in record(network).items():
            if isinstance(value, str):
                value = np.frombuffer(value.encode(), "uint8")
            else:
                print(family, name, value.shape, f"{np.sqrt((value**2).mean()):.3f}")
            arrays[f"{family}/{name}"] = value
    np.savez_compressed(HERE / "autoencoders.npz", **arrays)


if __name__ == "__main__":
    main()
