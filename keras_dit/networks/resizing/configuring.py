"""The configuration of a network for other data."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dit.layers import AdaLNBlock, CrossAttention, Rotary
from keras_dit.layers.parts import load_parts, save_part
from keras_dit.networks.dit import DiTModel

__all__ = ["CHANGES", "DATA", "changed", "grid"]

DATA = ("num_classes", "input_shape", "image_sizes", "patch_size", "learned_variance",
        "output_channels", "conditions", "time")  # fmt: skip
CHANGES = (*DATA, "condition_dropout", "remat", "dtype", "name")


def changed(network: Any, changes: Mapping[str, Any], spread: bool = True) -> dict:
    """The configuration of a network with other arguments, those of the data or of the training.

    A block is given a cross-attention where conditions with tokens are new, and loses it where
    there are none any more. Without `spread` rotary positions are scaled to those of before.

    Raises:
        ValueError: for a network that is no `DiTModel` or is quantized, or other changes.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 4), 2, 16, 1, 2, learned_variance=True)
    >>> changed(network, {"input_shape": (8, 8, 3)})["learned_variance"]
    True
    """
    _check(network, changes)
    config = {**network.get_config(), **changes, "trainable": True}
    config.pop("frozen", None)
    config["conditions"] = dict(config["conditions"])
    if "num_classes" in changes:
        config["conditions"].pop("label", None)
    given = changes.get("conditions")
    if given is not None:
        config["conditions"] = {name: save_part(condition) for name, condition in given.items()}
    if changes.get("time") is not None:
        config["time"] = save_part(changes["time"])
    if "input_shape" in changes and "image_sizes" not in changes:
        config.pop("image_sizes", None)
    config["input_shape"] = tuple(config["input_shape"])
    if config["output_channels"] and not {"output_channels", "learned_variance"} & set(changes):
        config["output_channels"] = _outputs(network, config["input_shape"][-1])
    if not spread and config.get("block"):
        scale = [old / new for old, new in zip(grid(network.config), grid(config))]
        config["block"] = _with_scale(config["block"], scale)
    return config if given is None else _with_block(config)


def grid(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the patches of a network of that configuration.

    Example:

    >>> grid({"input_shape": (8, 12, 1), "patch_size": 4})
    (2, 3)
    """
    height, width, _ = config["input_shape"]
    return height // config["patch_size"], width // config["patch_size"]


def _with_scale(saved, scale):
    """What a part is saved as, the rotary positions in it multiplied by so much."""
    if isinstance(saved, Mapping):
        found = {name: _with_scale(value, scale) for name, value in saved.items()}
        if saved.get("class_name") == Rotary.__name__:
            before = np.broadcast_to(found["config"].get("scale", 1.0), 2)
            found["config"]["scale"] = tuple(float(side) for side in before * scale)
        return found
    return saved


def _check(network, changes):
    if not isinstance(network, DiTModel):
        hint = ""
        if hasattr(network, "sampling_network"):
            hint = ": of a Diffusion give diffusion.sampling_network()"
        raise ValueError(f"network must be a DiTModel{hint}. Received: {type(network).__name__}")
    wrong = [name for name in changes if name not in CHANGES]
    if wrong:
        raise ValueError(
            f"of a trained network these can be others: {', '.join(CHANGES)}. "
            f"Received: {wrong[0]}={changes[wrong[0]]!r}"
        )
    if network.quantized:
        raise ValueError("network must not be quantized: resize it, then quantize()")


def _outputs(network, channels):
    """As many output channels for each one of an image as there were."""
    before, outputs = network.image_shape[-1], network.config["output_channels"]
    if channels != before and outputs % before:
        raise ValueError(
            "output_channels must be given, as those of the network are no multiple of its "
            f"images' channels. Received: {outputs} for {before}, and input_shape of {channels}"
        )
    return outputs if channels == before else outputs // before * channels


def _with_block(config):
    """The configuration, its block such that it attends to tokens where conditions give any."""
    parts = load_parts(config, "block", "conditions")
    told = any(condition.gives_tokens for condition in parts["conditions"].values())
    block = parts["block"] or AdaLNBlock(config["num_heads"], config["mlp_ratio"])
    if not isinstance(block, AdaLNBlock) or told == block.sees_tokens:
        return config
    own = block.get_config()
    if told:
        heads = config["num_heads"] or block.attention.num_heads
        cross_attention = save_part(CrossAttention(heads))
    elif own["cross_attention"] is None:
        raise ValueError(
            "the attention of the blocks looks at the tokens of a condition, and none would be "
            f"left that gives any. Received: conditions={list(parts['conditions'])}"
        )
    else:
        cross_attention = None
    block = type(block).from_config({**own, "cross_attention": cross_attention})
    return {**config, "block": save_part(block)}
