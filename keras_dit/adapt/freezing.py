"""Some of a network's weights stay as they are."""

import math
import re
from collections.abc import Callable
from typing import Any

import keras

from keras_dit.networks.naming import of_weights
from keras_dit.registry import nearest_first

__all__ = ["freeze", "unfreeze"]


def freeze(
    network: keras.Layer, pattern: str, say: Callable[[str], Any] | None = None
) -> list[str]:
    """Train a network without those of its weights whose name has a match of the pattern.

    To be called before `compile`. A `.keras` file keeps which weights of a `DiTModel` are frozen.

    Args:
        network: a layer that is built.
        pattern: a regular expression that is looked for in each name, such as "patches" or
            "block_[0-3]/"; "^(?!label)" is all but the label's.
        say: called with a sentence on what is frozen; None: nobody is.

    Returns:
        The names of the weights that it has frozen.

    Raises:
        ValueError: for a pattern that is none, matches no weight to train, or leaves none.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=16, depth=1, num_heads=2)
    >>> freeze(network, "patches", say=print)
    frozen: 2 of 20 weights, 272 of 10,320 parameters, of patches
    ['patches/projection/kernel', 'patches/projection/bias']
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f"pattern must be a regular expression ({error}): {pattern!r}") from None
    weights = of_weights(network)
    to_train = {id(weight) for weight in network.trainable_weights}
    open_now = {name: weight for name, weight in weights.items() if id(weight) in to_train}
    found = [name for name in open_now if search(name)]
    if not found or len(found) == len(open_now):
        much = "no weight to train" if not found else "all weights, so that none would be trained"
        rooms = nearest_first(pattern, dict.fromkeys(name.split("/")[0] for name in open_now))
        raise ValueError(
            f"pattern must match names of some weights, of {', '.join(rooms)}. "
            f"Received: {pattern!r}, which matches {much}"
        )
    for name in found:
        weights[name].trainable = False
    if say:
        say(_sentence(open_now, found))
    return found


def _sentence(weights, found):
    of_all = sum(math.prod(weight.shape) for weight in weights.values())
    of_them = sum(math.prod(weights[name].shape) for name in found)
    rooms = list(dict.fromkeys(name.split("/")[0] for name in found))
    shown = ", ".join(rooms[:6]) + (", ..." if len(rooms) > 6 else "")
    counts = f"{len(found)} of {len(weights)} weights, {of_them:,} of {of_all:,} parameters"
    return f"frozen: {counts}, of {shown}"


def unfreeze(network: keras.Layer) -> None:
    """Train all weights of a network again. To be called before `compile`.

    Args:
        network: a layer that is built.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=16, depth=1, num_heads=2)
    >>> count = len(network.trainable_weights)
    >>> frozen = freeze(network, "patches")
    >>> unfreeze(network)
    >>> len(network.trainable_weights) == count
    True
    """
    network.trainable = False  # on TensorFlow nothing is set to what it seems to be already
    network.trainable = True
