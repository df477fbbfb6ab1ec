"""The folders of diffusers: config.json and diffusion_pytorch_model.safetensors, shards or .bin.

diffusers is DiT with three differences. Its time frequencies are exp(−ln(10000) i / (half − 1)),
the norm before each MLP has the epsilon of its config, by default 1e-5, and each block has a copy
of the time's and the label's embedder. If those copies differ, no single embedder stands for them.
"""

import functools
import json
import pathlib
import re
import warnings

import numpy as np

from keras_dit import codecs, predictions, schedules
from keras_dit.files import beside
from keras_dit.layers import sincos_positions
from keras_dit.weights import facebook_dit, layout, safetensors_files
from keras_dit.weights import source as sources
from keras_dit.weights.stored import Stored, joined, some

_FILE = "diffusion_pytorch_model"
_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
_NUMBERS = ("num_attention_heads", "attention_head_dim", "in_channels", "num_layers")
_NUMBERS += ("sample_size", "patch_size", "num_embeds_ada_norm")
_BETAS = {"linear": schedules.LinearBeta, "scaled_linear": schedules.ScaledLinearBeta}
_PREDICTIONS = {
    "epsilon": predictions.Noise,
    "v_prediction": predictions.V,
    "sample": predictions.CleanSample,
}


def open_source(path):
    """The `Source` of a folder: of a pipeline, or its `transformer`.

    Raises:
        ValueError: if it is none, is not a DiT's, or is corrupt.
    """
    root = pathlib.Path(path)
    folder = root / "transformer" if (root / "transformer").is_dir() else root
    config = _json(folder / "config.json")
    _check(config, folder)
    tensors = _renamed(_tensors(folder), config["num_layers"], folder)
    rows = config["sample_size"] // config["patch_size"]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tensors["pos_embed"] = Stored(
        (1, rows * rows, width), lambda: sincos_positions(rows, rows, width)[None]
    )
    process = functools.partial(_process, root)
    return sources.Source(str(path), _network_config(config), tensors, process)


def _json(file):
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{file.parent} is no folder of diffusers: no {file.name}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file} is corrupt: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is corrupt: it holds a {type(value).__name__}")
    return value


def _check(config, folder):
    """Raise ValueError for the configuration of anything but a DiT."""
    name = config.get("_class_name")
    if name not in _CLASSES:
        raise ValueError(f"{folder} holds a {name}, not a {_CLASSES[0]}")
    for key in _NUMBERS:
        if type(config.get(key)) is not int or config[key] < 1:
            raise ValueError(f"{folder}/config.json: {key} must be a positive integer, "
                             f"not {config.get(key)!r}")  # fmt: skip
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{folder}/config.json: {key}={config[key]!r} makes no DiT: {value!r}")


def _network_config(config):
    channels, side = config["in_channels"], config["sample_size"]
    output_channels = config.get("out_channels") or channels
    if output_channels not in (channels, 2 * channels):
        raise ValueError(f"out_channels={output_channels} does not go with in_channels={channels}")
    return {
        "input_shape": (side, side, channels),
        "patch_size": config["patch_size"],
        "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        "depth": config["num_layers"],
        "num_heads": config["num_attention_heads"],
        "num_classes": config["num_embeds_ada_norm"],
        "learned_variance": output_channels == 2 * channels,
        "frequency_shift": 1,
        "mlp_epsilon": config.get("norm_eps", 1e-5),
    }


def _tensors(folder):
    """{name: `Stored`} of a folder's one file, or of its shards."""
    for suffix in (".safetensors", ".bin"):
        file = folder / (_FILE + suffix)
        if file.is_file():
            return facebook_dit.read(file)
        index = folder / f"{_FILE}{suffix}.index.json"
        if index.is_file():
            return _sharded(index)
    raise FileNotFoundError(
        f"{folder} has no {_FILE}.safetensors, nor .bin, nor an index of shards"
    )


def _sharded(index):
    places = _json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{index} is corrupt: it has no weight_map")
    for shard in places.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise ValueError(f"{index} is refused: it names a file outside of its folder: {shard}")
    shards = {
        shard: facebook_dit.read(index.parent / shard) for shard in sorted({*places.values()})
    }
    absent = [name for name, shard in places.items() if name not in shards[shard]]
    if absent:
        raise ValueError(f"{index} names tensors that its shards do not hold: {some(absent)}")
    return {name: shards[shard][name] for name, shard in places.items()}


# Names


def _names(depth):
    """{name of facebookresearch/DiT: (how, names of diffusers)} without ".weight" and ".bias"."""
    block = "transformer_blocks.{}.".format
    copies = [block(i) + "norm1.emb." for i in range(depth)]
    names = {
        "x_embedder.proj": (_one, ["pos_embed.proj"]),
        "t_embedder.mlp.0": (_tied, [c + "timestep_embedder.linear_1" for c in copies]),
        "t_embedder.mlp.2": (_tied, [c + "timestep_embedder.linear_2" for c in copies]),
        "y_embedder.embedding_table": (
            _tied,
            [c + "class_embedder.embedding_table" for c in copies],
        ),
        "final_layer.adaLN_modulation.1": (_one, ["proj_out_1"]),
        "final_layer.linear": (_one, ["proj_out_2"]),
    }
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", block(i)
        names |= {
            ours + "adaLN_modulation.1": (_one, [theirs + "norm1.linear"]),
            ours + "attn.qkv": (joined, [f"{theirs}attn1.to_{part}" for part in "qkv"]),
            ours + "attn.proj": (_one, [theirs + "attn1.to_out.0"]),
            ours + "mlp.fc1": (_one, [theirs + "ff.net.0.proj"]),
            ours + "mlp.fc2": (_one, [theirs + "ff.net.2"]),
        }
    return {
        f"{name}.{part}": (how, [f"{other}.{part}" for other in others])
        for name, (how, others) in names.items()
        for part in ("weight", "bias")
        if not (name.startswith("y_embedder") and part == "bias")
    }


def _one(parts):
    return parts[0]


def _tied(parts):
    """Copies of one tensor as that tensor; reading it makes sure that they are copies."""

    def read():
        first = parts[0].read()
        for part in parts[1:]:
            if not np.array_equal(part.read(), first, equal_nan=True):
                raise ValueError(
                    "the blocks' copies of the time and label embedders differ: this network was "
                    "trained with them untied, and no single embedder stands for them"
                )
        return first

    return Stored(parts[0].shape, read)


def _renamed(tensors, depth, folder):
    names = _names(depth)
    expected = [other for _, others in names.values() for other in others]
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in set(expected)]
    if missing or extra:
        parts = [f"missing: {some(missing)}"] if missing else []
        parts += [f"unexpected: {some(extra)}"] if extra else []
        raise ValueError(f"{folder} does not fit its config.json: {'; '.join(parts)}")
    return {
        name: how([tensors[other] for other in others]) for name, (how, others) in names.items()
    }


# The process around the network


def _process(root, network):
    """What the pipeline's scheduler and autoencoder say, or as DiT was trained."""
    parts = sources.ddpm(network)
    if (root / "scheduler" / "scheduler_config.json").is_file():
        config = _json(root / "scheduler" / "scheduler_config.json")
        parts["schedule"] = _schedule(config)
        kind = config.get("prediction_type", "epsilon")
        if kind not in _PREDICTIONS:
            raise ValueError(f"{root}/scheduler: prediction_type={kind!r} is not supported")
        parts["prediction"] = sources.with_variance(_PREDICTIONS[kind](), network)
    if (root / "vae" / "config.json").is_file():
        scale = _json(root / "vae" / "config.json").get("scaling_factor", 0.18215)
        parts["codec"] = codecs.Latents(scale)
    return parts


def _schedule(config):
    for key in ("rescale_betas_zero_snr", "trained_betas"):
        if config.get(key):
            raise ValueError(f"the scheduler's {key}={config[key]!r} is not supported")
    kind, steps = config.get("beta_schedule", "linear"), config.get("num_train_timesteps", 1000)
    if kind == "squaredcos_cap_v2":
        return schedules.CosineBeta(steps)
    if kind not in _BETAS:
        raise ValueError(f"the scheduler's beta_schedule={kind!r} is not supported")
    return _BETAS[kind](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))


# Export


def export(network, path):
    """Write a network as a folder that `DiTTransformer2DModel.from_pretrained` loads.

    Raises:
        ValueError: for a network that the class does not know.
    """
    folder, config = pathlib.Path(path), network.config
    height, width, _ = config["input_shape"]
    if height != width or config["mlp_ratio"] != 4:
        raise ValueError(
            "diffusers knows square pictures and an MLP of four times the width only. "
            f"Received: input_shape={config['input_shape']}, mlp_ratio={config['mlp_ratio']}"
        )
    if config["frequency_shift"] != 1:
        warnings.warn(
            "diffusers computes the time's features otherwise (frequency_shift=1): the exported "
            "network gives somewhat different numbers there, as the published conversions do",
            stacklevel=3,
        )
    tensors = _foreign(layout.save(network), config["depth"])
    text = json.dumps(_foreign_config(network), indent=2, sort_keys=True) + "\n"
    safetensors_files.write(tensors, folder / f"{_FILE}.safetensors")
    with beside(folder / "config.json") as new:
        new.write_text(text, encoding="utf-8")


def _foreign(tensors, depth):
    result = {}
    for name, (how, others) in _names(depth).items():
        for i, other in enumerate(others):
            result[other] = _third(tensors[name], i) if how is joined else tensors[name]
    return result


def _third(tensor, i):
    rows, *rest = tensor.shape
    size = rows // 3
    return Stored((size, *rest), lambda: tensor.read()[i * size : (i + 1) * size])


def _foreign_config(network):
    config = network.config
    side, _, channels = config["input_shape"]
    return {
        **_FIXED,
        "_class_name": _CLASSES[0],
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["hidden_size"] // config["num_heads"],
        "in_channels": channels,
        "out_channels": network.output_channels,
        "num_layers": config["depth"],
        "sample_size": side,
        "patch_size": config["patch_size"],
        "num_embeds_ada_norm": config["num_classes"],
        "norm_eps": config["mlp_epsilon"],
    }
