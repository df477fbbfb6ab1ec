"""The checkpoints of LTH14/JiT (Li, He: Back to Basics, 2025).

A dict with the weights, `model`, two averages of them, `model_ema1` (0.9999, which its images are
made with) and `model_ema2`, and the settings of the training, `args`. Names are LightningDiT's
behind "net.", with those of the patches' two linear maps and of the in-context tokens' positions.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from keras_dit.networks.presets import JIT_SIZES, jit_parts
from keras_dit.objectives import LogitNormalTimes, MeanSquaredError, VelocityWeighting
from keras_dit.predictions import FlooredSample
from keras_dit.processes import Process
from keras_dit.schedules import ReversedFlow
from keras_dit.weights import facts as travelling
from keras_dit.weights import files, layout
from keras_dit.weights.files import Stored, pytorch, some
from keras_dit.weights.format import Format
from keras_dit.weights.source import Source, codec, imagenet

_PREFIX = re.compile(r"(module\.|_orig_mod\.|net\.)+")
_OWN = "x_embedder.proj1.weight"  # a name that no other format has
_STATES = {  # what is looked for first, and what is said of it
    "model_ema1": "of this checkpoint the first average of the weights is taken ('model_ema1')",
    "model_ema": "of this checkpoint the average of the weights is taken ('model_ema')",
    "model": "of this checkpoint the raw weights are taken ('model'): it holds no average",
}


class JiT(Format):
    """A checkpoint of JiT's training, or its weights alone."""

    title = "a .pth checkpoint of LTH14/JiT"
    suffixes = (".pth",)
    keeps_facts = True

    def detect(self, path):
        try:
            return path.is_file() and _OWN in _state(files.read(path))[1]
        except (ValueError, ImportError):
            return False  # the next format says what is wrong

    def open(self, path):
        content = files.read(path)
        key, tensors = _state(content)
        others = [name for name, tensor in tensors.items() if not isinstance(tensor, Stored)]
        if others:
            raise ValueError(f"{path} holds no state dict, but {some(others)}")
        facts = travelling.parsed(files.note(path, travelling.NAME), path)
        config = {**_config(tensors, path), **facts["network"]}
        config.pop("mlp_epsilon", None)  # its block says it
        notes = [_STATES[key]] if key else []
        settings = content.get("args") or {}
        if not facts.get("process") and not settings:
            notes.append("nothing in it says how it was trained: taken for JiT's published way")
        names = facts.get("class_names") or (imagenet() if config["num_classes"] == 1000 else None)
        return Source(
            str(path),
            config,
            tensors,
            functools.partial(_parts, facts, settings, path),
            names and tuple(names),
            tuple(notes),
            functools.partial(travelling.codec, facts, path),
        )

    def export(self, network, path, facts=None):
        sizes = (
            network.config["num_heads"] or getattr(network.blocks[0].attention, "num_heads", 1),
            getattr(network.patches, "bottleneck", 1),
            network.config["in_context_start"],
            getattr(network.in_context, "count", 1),
        )
        parts = jit_parts(*sizes)
        parts.pop("in_context_start")
        layout.check_parts(network, **parts, whose="JiT")
        tensors = {f"net.{name}": tensor for name, tensor in layout.save(network).items()}
        notes = {} if facts is None else {travelling.NAME: travelling.text(facts)}
        pytorch.write(tensors, path, notes, ("model", "model_ema1", "model_ema2"))


def _state(content):
    """Under which name of a checkpoint the weights are, None: under none; and they themselves."""
    key = next((key for key in _STATES if isinstance(content.get(key), dict)), None)
    state = content if key is None else content[key]
    return key, {_PREFIX.sub("", str(name), count=1): tensor for name, tensor in state.items()}


def _config(tensors, path) -> dict[str, Any]:
    """The arguments of `DiTModel` that follow from the tensors' shapes."""
    try:
        return _inferred({name: tensor.shape for name, tensor in tensors.items()})
    except KeyError as error:
        raise ValueError(
            f"{path} does not hold the tensors of a JiT: missing: {error.args[0]}"
        ) from None
    except (ValueError, IndexError, ZeroDivisionError):
        raise ValueError(f"{path} does not hold the tensors of a JiT: wrong shapes") from None


def _inferred(shapes):
    bottleneck, channels, patch, _ = shapes[_OWN]
    _, tokens, width = shapes["pos_embed"]
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    heads = width // shapes["blocks.0.attn.q_norm.weight"][0]
    side = math.isqrt(tokens) * patch
    starts = {size[:3]: size[4] for size in JIT_SIZES.values()}
    return {
        "input_shape": (side, side, channels),
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
        **jit_parts(heads, bottleneck, 0, shapes["in_context_posemb"][1]),
        "in_context_start": starts.get((width, depth, heads)),
    }


def _parts(facts, settings, path, network):
    """The arguments of `Diffusion` that the facts name, or the settings of its training."""
    if facts.get("process"):
        return travelling.process(facts, path)
    return {"process": process(settings, max(network.image_shape[:2])), "codec": codec(network)}


def process(settings: Mapping[str, Any], side: int) -> Process:
    """How a JiT was trained.

    Args:
        settings: those of its training program, `args`; what they do not say is as published.
        side: of its images in pixels, by which the noise scale goes that is not said.
    """

    def said(name, usual):
        return usual if settings.get(name) is None else float(settings[name])

    times = LogitNormalTimes(-said("P_mean", -0.8), said("P_std", 0.8))  # its t is 1 minus ours
    return Process(
        ReversedFlow(said("noise_scale", max(1.0, side / 256))),
        FlooredSample(said("t_eps", 0.05)),
        MeanSquaredError(times, VelocityWeighting()),
    )
