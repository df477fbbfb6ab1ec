"""The files of facebookresearch/DiT, SiT and LightningDiT, whose tensors have the same names.

A release is a bare state dict; a checkpoint of their train.py holds `model`, `ema`, `opt` and
`args`, and its average is what gives the images. The same names may come as .safetensors.
LightningDiT has norms with gains, SwiGLU and rotary positions beside, each by choice: the tensors
say which.
"""

import functools
import math
import re

import numpy as np

from keras_dit.layers import AdaLNBlock, LayerNorm, RMSNorm, Rotary, SelfAttention, SwiGLU
from keras_dit.networks import SIZES
from keras_dit.weights import facts as travelling
from keras_dit.weights import files, layout
from keras_dit.weights.files import Stored, some
from keras_dit.weights.format import Format
from keras_dit.weights.source import Source, dit, imagenet, lightning, sit
from keras_dit.weights.source import channels as output_channels

_PREFIX = re.compile(r"(module\.|_orig_mod\.)+")  # of DistributedDataParallel, torch.compile
_OTHERS = {  # parts that DiT does not have: whose they are
    r"^projectors\.": "REPA's projectors",
    r"\.cond_proj\.|^omega_embedder": "an embedder of the guidance's scale",
    r"\.lora_": "adapters of PEFT: adapt.load_lora or --lora puts them on their network",
}
_STATES = {  # of a checkpoint: what is looked for first, and what is said of it
    "ema": "of this checkpoint the average of the weights is taken ('ema')",
    "model": "of this checkpoint the raw weights are taken ('model'): it holds no average ('ema')",
    "state_dict": "of this checkpoint the weights under 'state_dict' are taken",
}


class FacebookDiT(Format):
    """A file of facebookresearch/DiT, of its train.py, or of SiT."""

    title = "a .pt or .safetensors file of facebookresearch/DiT, SiT or LightningDiT"
    suffixes = (".pt", ".safetensors")
    keeps_facts = True

    def detect(self, path):
        return path.is_file()

    def open(self, path):
        content = files.read(path)
        key = next((key for key in _STATES if isinstance(content.get(key), dict)), None)
        tensors = _tensors(content if key is None else content[key], path)
        facts = travelling.parsed(files.note(path, travelling.NAME), path)
        process, notes = _process(content.get("args") or {}, facts, path)
        modern = _modern(tensors, facts, path)
        if modern and not facts.get("process"):
            process, notes = lightning, ()
        if key is not None:
            notes = (_STATES[key], *notes)
        config = {**_config(tensors, path, process is not dit), **facts["network"], **modern}
        if modern:
            config.pop("mlp_epsilon", None)  # its block says it
        tensors = {name: tensor for name, tensor in tensors.items() if name not in _TABLES}
        names = facts.get("class_names") or _imagenet(config)
        names = names and tuple(names)
        codec = functools.partial(travelling.codec, facts, path)
        return Source(str(path), config, tensors, process, names, notes, codec)

    def check(self, path):
        files.check_library(path)

    def export(self, network, path, facts=None):
        notes = {} if facts is None else {travelling.NAME: travelling.text(facts)}
        chosen = _chosen(network)
        layout.check_parts(network, **chosen)
        tensors = layout.save(network)
        if chosen and network.blocks[0].attention.positions is not None:
            tensors |= _rotary_tables(network)
        files.write(tensors, path, notes)


def _tensors(state, path):
    """The state dict without what DDP and torch.compile put before its names."""
    others = [name for name, tensor in state.items() if not isinstance(tensor, Stored)]
    if others or not state:
        raise ValueError(f"{path} holds no state dict, but {some(others) or 'nothing'}")
    tensors = {_PREFIX.sub("", name, count=1): tensor for name, tensor in state.items()}
    for pattern, whose in _OTHERS.items():
        found = [name for name in tensors if re.search(pattern, name)]
        if found:
            raise ValueError(
                f"{path} is a network with other parts than DiT's, {whose}, which are not "
                f"supported: {some(found)}"
            )
    if "x_embedder.proj.weight" not in tensors:
        hint = ""
        if any(name.startswith("transformer_blocks.") for name in tensors):
            hint = ". These are names of diffusers: give its folder, where config.json is"
        raise ValueError(f"{path} does not hold the tensors of a DiT, but {some(tensors)}{hint}")
    return tensors


def _config(tensors, path, sit):
    """The arguments of `DiTModel` that follow from the tensors' shapes."""
    try:
        return _inferred({name: tensor.shape for name, tensor in tensors.items()}, sit)
    except KeyError as error:
        raise ValueError(
            f"{path} does not hold the tensors of a DiT: missing: {error.args[0]}"
        ) from None
    except (ValueError, IndexError, ZeroDivisionError):
        raise ValueError(f"{path} does not hold the tensors of a DiT: wrong shapes") from None


def _inferred(shapes, sit):
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    side = math.isqrt(shapes["pos_embed"][1]) * patch
    config = {
        "input_shape": (side, side, channels),
        "patch_size": patch,
        "hidden_size": width,
        "depth": len(blocks),
        "num_classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
        "mlp_ratio": _ratio(shapes, width),
        **output_channels(shapes["final_layer.linear.weight"][0] // patch**2, channels, not sit),
    }
    for size, depth, heads in SIZES.values():
        if (size, depth) == (width, len(blocks)):
            config["num_heads"] = heads
    return config


# LightningDiT's parts

_TABLES = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")
_PARTS = {  # a tensor that a part has
    "rms": "blocks.0.norm1.weight",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "swiglu": "blocks.0.mlp.w12.weight",
    "rotary": _TABLES[0],
}


def _modern(tensors, facts, path):
    """The arguments of `DiTModel` by which a LightningDiT differs from a DiT; none: it does not."""
    has = {part: name in tensors for part, name in _PARTS.items()}
    if not any(has.values()):
        return {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    width = shapes["x_embedder.proj.weight"][0]
    if shapes.get("blocks.0.adaLN_modulation.1.weight") == (4 * width, width):
        raise ValueError(f"{path} is a LightningDiT without shifts in its norms (wo_shift)")
    heads = next((width // shapes[_PARTS[n]][-1] for n in ("rotary", "qk_norm") if has[n]), None)
    heads = heads or facts["network"].get("num_heads")
    if heads is None:
        raise ValueError(
            f"{path} is a LightningDiT without rotary positions and query-key norms, which does "
            "not say how many heads its attention has"
        )
    ratio = _ratio(shapes, width)
    return {
        "num_heads": heads,
        "mlp_ratio": ratio,
        **_parts(heads, ratio, **has),
    }


def _parts(heads, ratio, *, rms, rotary, swiglu, qk_norm):
    """The block and the final norm of a LightningDiT, as the tensors of its file have them."""
    norm = RMSNorm() if rms else LayerNorm()
    of_heads = RMSNorm() if rms else LayerNorm(1e-5, affine=True)
    attention = SelfAttention(
        heads, qk_norm=of_heads if qk_norm else None, positions=Rotary() if rotary else None
    )
    mlp = SwiGLU(ratio) if swiglu else None
    block = AdaLNBlock(heads, ratio, norm=norm, attention=attention, mlp=mlp)
    return {"block": block, "final_norm": RMSNorm() if rms else None}


def _ratio(shapes, width):
    """Width of the MLP over that of the tokens; SwiGLU's hidden layer has 2/3 of it."""
    if "blocks.0.mlp.w3.weight" not in shapes:
        return shapes["blocks.0.mlp.fc1.weight"][0] / width
    hidden = shapes["blocks.0.mlp.w3.weight"][1]
    usual = 4.0
    return usual if int(width * usual * 2 / 3) == hidden else (hidden + 0.5) * 1.5 / width


def _chosen(network):
    """The parts of a network as LightningDiT chooses them, as `layout.check_parts` takes them."""
    block, final = network.blocks[0], network.final.norm
    attention = getattr(block, "attention", None)
    has = {
        "rms": isinstance(final, RMSNorm),
        "qk_norm": getattr(attention, "query_norm", None) is not None,
        "swiglu": isinstance(getattr(block, "mlp", None), SwiGLU),
        "rotary": getattr(attention, "positions", None) is not None,
    }
    if not any(has.values()):
        return {}
    return _parts(attention.num_heads, block.mlp_ratio, **has)


def _rotary_tables(network):
    """cos and sin of the angles by which a head's numbers are turned, (T, D/H) each."""
    rotary, head = network.blocks[0].attention.positions, network.config["hidden_size"]
    head //= network.blocks[0].attention.num_heads
    angles = np.repeat(rotary.angles(network.grid, head // 4), 2, axis=-1)  # (T, D/H)
    tables = [np.cos(angles).astype("float32"), np.sin(angles).astype("float32")]
    return {
        name: Stored(table.shape, lambda table=table: table) for name, table in zip(_TABLES, tables)
    }


def _imagenet(config):
    """The names of the classes of all that was published: 1000, of latents; else None."""
    if config["num_classes"] != 1000 or config["input_shape"][-1] != 4:
        return None
    return imagenet()


# How it was trained

# Of SiT's train.py: what the published networks were trained with.
_SIT = {"path_type": "Linear", "prediction": "velocity"}


def _process(settings, facts, path):
    """(network -> arguments of `Diffusion`, notes): by the facts, train.py's settings, the name."""
    if facts.get("process"):
        return lambda network: travelling.process(facts, path), ()
    said = settings.get("model")
    named_sit = str(said or path.name).lower().startswith("sit")
    notes = ()
    if not said:
        kind = "SiT's straight lines and velocity" if named_sit else "DiT's DDPM"
        notes = (f"nothing in it says how it was trained: by its name taken for {kind}",)
    other = [f"{key}={settings[key]}" for key in _SIT if settings.get(key, _SIT[key]) != _SIT[key]]
    if named_sit and other:
        return _refused(path, other), notes
    return sit if named_sit else dit, notes


def _refused(path, settings):
    def process(network):
        raise ValueError(
            f"{path} was trained with {', '.join(settings)}, of which only the network can be "
            "loaded: DiTModel.from_preset. Diffusion.from_preset knows SiT's linear path and "
            "velocity; for another give process="
        )

    return process
