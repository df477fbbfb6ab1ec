"""The autoencoders of diffusers: a folder with config.json, one of a pipeline, or a file alone.

    AutoencoderKL     of Stable Diffusion 1, 2, XL and 3, of Flux
    AutoencoderTiny   TAESD

Files from before 2023 call the parts of an attention query, key, value and proj_attn. A file alone
has its config.json beside it, or its configuration follows from the shapes of its tensors.
"""

import pathlib
import re

import numpy as np

from keras_dit.codecs import AutoencoderKL, AutoencoderTiny
from keras_dit.weights import files
from keras_dit.weights.autoencoders import layout
from keras_dit.weights.autoencoders.source import AutoencoderSource
from keras_dit.weights.files import Stored, folders, some
from keras_dit.weights.format import Format

_FILE = "diffusion_pytorch_model"
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_TINY_FIXED = {"act_fn": "relu", "upsampling_scaling_factor": 2, "upsample_fn": "nearest"}
_KL_FIXED = {"act_fn": "silu"}
_NAMES = layout.names_of(lambda name: name)
_HINT = "encoder.down_blocks."  # of its names, by which a file alone is known


class Diffusers(Format):
    """An AutoencoderKL or AutoencoderTiny of diffusers."""

    title = "a folder or file of diffusers with an AutoencoderKL or AutoencoderTiny"
    suffixes = ("",)
    hub_patterns = ("config.json", f"{_FILE}*", "vae/*")

    def detect(self, path):
        if path.is_dir():
            return True
        try:
            return any(name.startswith(_HINT) for name in files.read(path))
        except (ValueError, ImportError):
            return False  # who opens it says so

    def open(self, path):
        folder = path if path.is_dir() else path.parent
        if path.is_dir() and (path / "vae").is_dir():
            folder = path / "vae"
        config = _config(path, folder)
        tensors = folders.tensors(folder, _FILE)[0] if path.is_dir() else files.read(path)
        tensors = {_today(name): tensor for name, tensor in tensors.items()}
        if config is None:
            return _alone(path, tensors)
        kind, read = _READERS[config["_class_name"]]
        upcast = config.get("force_upcast", kind is AutoencoderKL)
        network = {**read(config, folder, len(tensors)), **({"dtype": "float32"} if upcast else {})}
        scale, shift = _scale(config, kind, network["latent_channels"], folder)
        return AutoencoderSource(str(path), network, tensors, _NAMES, kind, scale, shift)

    def check(self, path):
        files.check_library(f"{_FILE}.safetensors")

    def export(self, network, path, facts=None):
        folder = pathlib.Path(path)
        tensors = layout.separated(layout.save(network.network), _NAMES)
        config = _foreign_config(network)
        files.write(tensors, folder / f"{_FILE}.safetensors")
        folders.write_json(folder / "config.json", config)


def _config(path, folder):
    """What config.json says, of a file only if it is one of an autoencoder; else None."""
    if path.is_file() and not (folder / "config.json").is_file():
        return None
    config = folders.read_json(folder / "config.json")
    name = config.get("_class_name")
    if name in _READERS:
        return config
    if path.is_file():  # of something else that lies beside it
        return None
    raise ValueError(f"{folder} holds a {name}, not an {' or '.join(_READERS)}")


def _today(name):
    """The name of a tensor as it is since 2023."""
    return re.sub(
        r"(attentions\.\d+\.)(query|key|value|proj_attn)\.",
        lambda match: f"{match[1]}{_OLD[match[2]]}.",
        name,
    )


def _alone(path, tensors):
    """The source of a file that no configuration belongs to."""
    others = [name for name, tensor in tensors.items() if not isinstance(tensor, Stored)]
    if others:
        raise ValueError(f"{path} holds no state dict, but {some(others)}")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = layout.inferred(shapes, _NAMES, path)
    scale = 0.18215 if config["latent_channels"] == 4 else None
    return AutoencoderSource(str(path), config, tensors, _NAMES, scale=scale)


# Configurations


def _numbers(config, names, folder):
    """Those values of a configuration, positive integers."""
    for name in names:
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(f"{folder}/config.json: {name} must be a positive integer, "
                             f"not {config.get(name)!r}")  # fmt: skip
    return [config[name] for name in names]


def _list(config, name, kind, folder, most):
    values = config.get(name)
    good = isinstance(values, list) and 0 < len(values) <= most
    if not good or not all(type(value) is kind for value in values):
        raise ValueError(f"{folder}/config.json: {name} must be a list of {kind.__name__}, "
                         f"not {values!r}")  # fmt: skip
    return tuple(values)


def _check_fixed(config, fixed, folder):
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{folder}/config.json: {key}={config[key]!r} is not supported, but {value!r}"
            )


def _kl(config, folder, count):
    """The arguments of `AutoencoderKL`."""
    config = {"norm_num_groups": 32, "latent_channels": 4, "layers_per_block": 1, **config}
    config.setdefault("out_channels", config.get("in_channels"))
    names = ("in_channels", "out_channels", "latent_channels", "layers_per_block")
    inputs, outputs, latents, layers = _numbers(config, names, folder)
    channels = _list(config, "block_out_channels", int, folder, count)
    down = _list(config, "down_block_types", str, folder, count)
    up = _list(config, "up_block_types", str, folder, count)
    _check_fixed(config, _KL_FIXED, folder)
    mirrored = tuple(kind.replace(_UP, _DOWN) for kind in reversed(up))
    if not {*down} <= {_DOWN, f"Attn{_DOWN}"} or mirrored != down or len(down) != len(channels):
        raise ValueError(
            f"{folder}/config.json: the blocks must be {_DOWN} or Attn{_DOWN}, one for each of "
            f"block_out_channels, and the decoder's the same. Received: {down}, {up}"
        )
    quant = [config.get(f"use_{name}quant_conv", True) for name in ("", "post_")]
    if layers > count:
        raise ValueError(
            f"{folder}/config.json: there are not as many tensors as layers_per_block={layers}"
        )
    if outputs != inputs or quant[0] != quant[1]:
        raise ValueError(
            f"{folder}/config.json: out_channels must be in_channels, and use_quant_conv "
            f"use_post_quant_conv. Received: {outputs}, {inputs}; {quant[0]}, {quant[1]}"
        )
    return {
        "in_channels": inputs,
        "latent_channels": latents,
        "channels": channels,
        "layers_per_block": layers,
        "groups": _numbers(config, ["norm_num_groups"], folder)[0],
        "quant_conv": bool(quant[0]),
        "mid_attention": bool(config.get("mid_block_add_attention", True)),
        "attention_levels": tuple(i for i, kind in enumerate(down) if kind.startswith("Attn")),
    }


def _tiny(config, folder, count):
    """The arguments of `AutoencoderTiny`."""
    config = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, **config}
    names = ("in_channels", "out_channels", "latent_channels")
    inputs, outputs, latents = _numbers(config, names, folder)
    _check_fixed(config, _TINY_FIXED, folder)
    widths = [
        width
        for half in ("encoder", "decoder")
        for width in _list(config, f"{half}_block_out_channels", int, folder, count)
    ]
    blocks = [
        _list(config, f"num_{half}_blocks", int, folder, count) for half in ("encoder", "decoder")
    ]
    if len({*widths}) > 1 or outputs != inputs or sum(map(sum, blocks)) > count:
        raise ValueError(
            f"{folder}/config.json: all widths must be equal, and out_channels in_channels. "
            f"Received: {widths}; {outputs}, {inputs}"
        )
    return {
        "in_channels": inputs,
        "latent_channels": latents,
        "width": widths[0],
        "encoder_blocks": blocks[0],
        "decoder_blocks": blocks[1],
    }


_READERS = {"AutoencoderKL": (AutoencoderKL, _kl), "AutoencoderTiny": (AutoencoderTiny, _tiny)}


def _scale(config, kind, channels, folder):
    """Scale and shift: numbers, or those of each channel by its mean and standard deviation."""
    usual = 0.18215 if kind is AutoencoderKL else 1.0
    values = [config.get("scaling_factor", usual), config.get("shift_factor") or 0.0]
    values += [config.get(key) for key in ("latents_std", "latents_mean")]
    scale, shift, std, mean = (None if v is None else np.asarray(v) for v in values)
    given = [array for array in (scale, shift, std, mean) if array is not None]
    if any(a.dtype.kind not in "if" or a.shape not in ((), (channels,)) for a in given):
        raise ValueError(
            f"{folder}/config.json: scaling_factor, shift_factor, latents_mean and latents_std "
            f"must be numbers. Received: {values}"
        )
    if std is None or mean is None:
        return scale.item(), shift.item()
    return tuple((scale / std).tolist()), tuple(mean.tolist())


def _foreign_config(codec):
    network = codec.network
    own = _foreign_tiny if isinstance(network, AutoencoderTiny) else _foreign_kl
    config = {**own(network.config), "in_channels": network.in_channels}
    config |= {"out_channels": network.in_channels, "latent_channels": network.latent_channels}
    upcast = network.compute_dtype == "float32" and isinstance(network, AutoencoderKL)
    config["force_upcast"] = upcast
    if isinstance(codec.scale, float) and isinstance(codec.shift, float):
        shift = codec.shift or (None if isinstance(network, AutoencoderKL) else 0.0)
        return {**config, "scaling_factor": codec.scale, "shift_factor": shift}
    channels = network.latent_channels
    scale, shift = (np.broadcast_to(v, channels) for v in (codec.scale, codec.shift))
    mean, std = shift.tolist(), (1.0 / scale).tolist()
    return {**config, "scaling_factor": 1.0, "latents_mean": mean, "latents_std": std}


def _foreign_kl(config):
    levels = range(len(config["channels"]))
    attends = ["Attn" if i in config["attention_levels"] else "" for i in levels]
    return {
        "_class_name": "AutoencoderKL",
        **_KL_FIXED,
        "block_out_channels": list(config["channels"]),
        "down_block_types": [f"{attention}{_DOWN}" for attention in attends],
        "up_block_types": [f"{attention}{_UP}" for attention in reversed(attends)],
        "layers_per_block": config["layers_per_block"],
        "norm_num_groups": config["groups"],
        "use_quant_conv": config["quant_conv"],
        "use_post_quant_conv": config["quant_conv"],
        "mid_block_add_attention": config["mid_attention"],
    }


def _foreign_tiny(config):
    return {
        "_class_name": "AutoencoderTiny",
        **_TINY_FIXED,
        "encoder_block_out_channels": [config["width"]] * len(config["encoder_blocks"]),
        "decoder_block_out_channels": [config["width"]] * len(config["decoder_blocks"]),
        "num_encoder_blocks": list(config["encoder_blocks"]),
        "num_decoder_blocks": list(config["decoder_blocks"]),
    }
