"""Which arguments make a `DiTModel`."""

from collections.abc import Mapping
from typing import Any

from keras_dit.conditions import Condition
from keras_dit.layers.patches import check_image_shape


def output_channels_of(config: Mapping[str, Any]) -> int:
    """The channels of the output of a network with these arguments."""
    channels = config["input_shape"][-1] * (2 if config.get("learned_variance") else 1)
    return config.get("output_channels") or channels


def image_sizes(sizes: Any, config: Mapping[str, Any]) -> tuple:
    """The (H, W) beside that of the input_shape, each once; or ValueError for others."""
    try:
        pairs = tuple(tuple(map(int, size)) for size in sizes)
    except TypeError:
        raise ValueError(f"image_sizes must be pairs (H, W). Received: {sizes!r}") from None
    for pair in pairs:
        check_image_shape((*pair, config["input_shape"][-1]), config["patch_size"])
    others = dict.fromkeys(pairs)
    others.pop(tuple(config["input_shape"][:2]), None)
    return tuple(others)


def check(config: Mapping[str, Any], conditions: Mapping[str, Any], block: Any) -> None:
    """Raise ValueError for numbers and conditions that make no network."""
    numbers = ["patch_size", "hidden_size", "depth"]
    if block is None or config["num_heads"] is not None:
        numbers.append("num_heads")
    for name in numbers:
        if not isinstance(config[name], int) or config[name] < 1:
            raise ValueError(f"{name} must be an integer of 1 or more. Received: {config[name]!r}")
    check_image_shape(config["input_shape"], config["patch_size"])
    width, heads = config["hidden_size"], config["num_heads"]
    if width % (heads or 1) or width % 4:
        raise ValueError(
            "hidden_size must be a multiple of num_heads and of 4. "
            f"Received: hidden_size={width}, num_heads={heads}"
        )
    start = config["in_context_start"]
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < config["depth"]:
        raise ValueError(
            "in_context_start must be the number of a block, from 0 on. "
            f"Received: in_context_start={start!r}, depth={config['depth']}"
        )
    for name in ("condition_dropout", "mlp_ratio"):
        if not isinstance(config[name], (int, float)):
            raise ValueError(f"{name} must be a number. Received: {config[name]!r}")
    if not 1 <= config["mlp_ratio"] * width < float("inf"):
        raise ValueError(f"mlp_ratio must be positive. Received: mlp_ratio={config['mlp_ratio']!r}")
    _check_channels(config)
    _check_conditions(config, conditions)


def _check_channels(config):
    channels, learned = config["output_channels"], config["learned_variance"]
    expected = output_channels_of({**config, "output_channels": None})
    good = channels is None or (isinstance(channels, int) and channels >= 1)
    if not good or (learned and channels not in (None, expected)):
        allowed = f"{expected} with a learned variance" if learned else ">= 1"
        raise ValueError(
            f"output_channels must be None or an integer, {allowed}. "
            f"Received: output_channels={channels!r}"
        )


def _check_conditions(config, conditions):
    width, classes = config["hidden_size"], config["num_classes"]
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            f"num_classes must be None or at least 1. Received: num_classes={classes!r}"
        )
    if classes is not None and "label" in conditions:
        raise ValueError('num_classes is short for conditions={"label": ...}: give one of them')
    dropout = config["condition_dropout"]
    if not 0.0 <= dropout < 1.0:
        raise ValueError(
            f"condition_dropout must be in [0, 1). Received: condition_dropout={dropout!r}"
        )
    for name, condition in conditions.items():
        if not isinstance(condition, Condition):
            raise ValueError(
                "conditions must be a dict of keras_dit.conditions, such as Label(10), by name. "
                f"Received: {name}={condition!r}"
            )
        if condition.hidden_size not in (None, width):
            raise ValueError(
                f"the hidden_size of the condition {name} must be None or that of the network, "
                f"{width}. Received: hidden_size={condition.hidden_size}"
            )
