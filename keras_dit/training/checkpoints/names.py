"""The names of weights in files, which are those of 0.1.0 wherever the layers have moved since.

The one place that translates them: for checkpoints, and for the average in `.keras` files, which
0.1.0 wrote by position alone.
"""

import collections
import re
from collections.abc import Iterable

import keras

__all__ = ["of_weights", "order_of_0_1_0", "stable"]

_MOVED = [(re.compile(r"(^|/|_)mlp/(mlp_in|mlp_out)"), r"\1\2")]  # parts that blocks got since

_ROOMS = ["positions", "patches", "time", "label", "block", "final"]
_PARTS = ["modulation", "qkv", "attention/projection", "mlp_in", "mlp_out", "projection", "table"]


def of_weights(network: keras.Layer) -> dict[str, keras.Variable]:
    """A network's weights by their names in files."""
    named, seen = {}, collections.Counter()
    for weight in network.weights:
        name = stable(weight.path.removeprefix(f"{network.name}/"))
        named[f"{name}#{seen[name]}" if name in seen else name] = weight
        seen[name] += 1
    return named


def stable(path: str) -> str:
    """The name in files of the weight that has this path within its network."""
    for pattern, name in _MOVED:
        path = pattern.sub(name, path)
    return path


def order_of_0_1_0(names: Iterable[str]) -> list[str]:
    """Names of weights in the order in which 0.1.0 wrote their averages into `.keras` files."""

    def place(name):
        room, _, number = name.partition("/")[0].partition("_")
        part = next((i for i, part in enumerate(_PARTS) if f"{part}/" in f"{name}/"), 0)
        return _ROOMS.index(room), int(number or 0), part, name.endswith("bias")

    return sorted((name for name in names if name.split("/")[0].split("_")[0] in _ROOMS), key=place)
