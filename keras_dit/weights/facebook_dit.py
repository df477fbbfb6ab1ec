"""The files of facebookresearch/DiT and of SiT, whose tensors have the same names.

A release is a bare state dict; a checkpoint of their train.py holds `model`, `ema`, `opt` and
`args`, and its average is what gives the pictures. The same names may come as .safetensors.
"""

import math
import pathlib
import re

from keras_dit.networks import SIZES
from keras_dit.weights import layout, safetensors_files, torch_files
from keras_dit.weights.source import Source, ddpm, flow
from keras_dit.weights.stored import Stored, some

_PREFIX = re.compile(r"(module\.|_orig_mod\.)+")  # of DistributedDataParallel, torch.compile
_LIGHTNING = re.compile(r"q_norm|k_norm|mlp\.w12|mlp\.w3|norm1\.weight")


def open_source(path):
    """The `Source` of a file, its format found by its content.

    Raises:
        ValueError: for anything else, with what it is where that can be told.
    """
    content = read(path)
    state = content
    for key in ("ema", "model", "state_dict"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    tensors = _tensors(state, path)
    settings = content.get("args") or {}
    return Source(str(path), _config(tensors, path), tensors, _process(settings, path))


def read(path):
    """The content of a .pt or .safetensors file as a dict, with `Stored` for tensors."""
    with open(path, "rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # before it stands a length, whose bytes may be those of the others
        content = safetensors_files.read(path)
    elif head.startswith(b"PK"):
        content = torch_files.read_zip(path)
    elif head.startswith(b"\x80"):
        content = torch_files.read_legacy(path)
    else:
        raise ValueError(f"{path} {_what(head)}")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no weights but a {type(content).__name__}")
    return content


def _what(head):
    """What a file is that holds no weights, by its first bytes."""
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if text.startswith(b"<"):
        return "is a web page, not weights: its download went wrong"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights themselves: run git lfs pull"
    return "is neither a PyTorch file nor a .safetensors file"


def _tensors(state, path):
    """The state dict without what DDP and torch.compile put before its names."""
    others = [name for name, tensor in state.items() if not isinstance(tensor, Stored)]
    if others or not state:
        raise ValueError(f"{path} holds no state dict, but {some(others) or 'nothing'}")
    tensors = {_PREFIX.sub("", name, count=1): tensor for name, tensor in state.items()}
    lightning = [name for name in tensors if _LIGHTNING.search(name)]
    if lightning:
        raise ValueError(
            f"{path} is a network with other parts than DiT's, such as LightningDiT's norms of q "
            f"and k, SwiGLU or RMSNorm, which are not supported: {some(lightning)}"
        )
    if "x_embedder.proj.weight" not in tensors:
        hint = ""
        if any(name.startswith("transformer_blocks.") for name in tensors):
            hint = ". These are names of diffusers: give its folder, where config.json is"
        raise ValueError(f"{path} does not hold the tensors of a DiT, but {some(tensors)}{hint}")
    return tensors


def _config(tensors, path):
    """The arguments of `DiTModel` that follow from the tensors' shapes."""
    try:
        return _inferred({name: tensor.shape for name, tensor in tensors.items()})
    except KeyError as error:
        raise ValueError(
            f"{path} does not hold the tensors of a DiT: missing: {error.args[0]}"
        ) from None
    except (ValueError, IndexError, ZeroDivisionError):
        raise ValueError(f"{path} does not hold the tensors of a DiT: wrong shapes") from None


def _inferred(shapes):
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    side = math.isqrt(shapes["pos_embed"][1]) * patch
    config = {
        "input_shape": (side, side, channels),
        "patch_size": patch,
        "hidden_size": width,
        "depth": len(blocks),
        "num_classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / width,
        "learned_variance": shapes["final_layer.linear.weight"][0] == 2 * channels * patch**2,
    }
    for size, depth, heads in SIZES.values():
        if (size, depth) == (width, len(blocks)):
            config["num_heads"] = heads
    return config


# Of SiT's train.py: what the published networks were trained with.
_SIT = {"path_type": "Linear", "prediction": "velocity"}


def _process(settings, path):
    """DiT's or SiT's: as train.py's settings say, else, since nothing inside does, as the name."""
    name = str(settings.get("model") or pathlib.Path(path).name)
    if not name.lower().startswith("sit"):
        return ddpm
    other = [f"{key}={settings[key]}" for key in _SIT if settings.get(key, _SIT[key]) != _SIT[key]]
    return _refused(path, other) if other else flow


def _refused(path, settings):
    def process(network):
        raise ValueError(
            f"{path} was trained with {', '.join(settings)}, of which only the network can be "
            "loaded: DiTModel.from_preset. Diffusion.from_preset knows SiT's linear path and "
            "velocity"
        )

    return process


def export(network, path):
    """Write a network as facebookresearch/DiT loads it: .safetensors by that suffix, else .pt."""
    write = torch_files.write_zip
    if pathlib.Path(path).suffix == ".safetensors":
        write = safetensors_files.write
    write(layout.save(network), path)
