"""The names of weights in files, and what they were called in 0.1.0.

The one place that translates them: for checkpoints, and for the average in `.keras` files, which
0.1.0 wrote by position alone.
"""

import re
from collections.abc import Iterable

from keras_dit.networks.naming import below_adapters, of_weights

__all__ = ["below_adapters", "of_today", "of_weights", "order_of_0_1_0"]

_ROOMS = ["positions", "patches", "time", "label", "block", "final"]
_PARTS = ["modulation", "qkv", "attention/projection", "mlp_in", "mlp_out", "projection", "table"]


def of_today(name: str) -> str:
    """What a variable of a 0.1.0 checkpoint is called today: the MLP became a part of its own."""
    return re.sub(r"(block_\d+)([/_])(mlp_(?:in|out))", r"\1\2mlp\2\3", name)


def order_of_0_1_0(names: Iterable[str]) -> list[str]:
    """Names of weights in the order in which 0.1.0 wrote their averages into `.keras` files."""

    def place(name):
        room, _, number = name.partition("/")[0].partition("_")
        part = next((i for i, part in enumerate(_PARTS) if f"{part}/" in f"{name}/"), 0)
        return _ROOMS.index(room), int(number or 0), part, name.endswith("bias")

    return sorted((name for name in names if name.split("/")[0].split("_")[0] in _ROOMS), key=place)
