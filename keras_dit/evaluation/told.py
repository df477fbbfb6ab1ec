"""What the network is told for each image of a set: conditions by name.

The images of a score have to be told what the reference shows, or the score measures that. What a
condition's values are only the condition knows, so here they are numbered and taken:

    given        the caller's values, in turn
    "balanced"   each value in turn, where they can be counted, as classes can; else as "data"
    "data"       those of the reference, as often as there, in random order; what is known of one of
                 its images stays together
    "none"       nothing
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import tree

from keras_dit import draws
from keras_dit.datasets.parts import taken
from keras_dit.registry import Registry, one_of

__all__ = ["POLICIES", "Told", "told"]


class Told(NamedTuple):
    """What each image of a set is told.

    Attributes:
        values: of the conditions by name: arrays, tuples of arrays, or lists.
        places: which of them each image gets, int (N,) by name.
        facts: how they were chosen, by name, for a report.
    """

    values: dict[str, Any]
    places: dict[str, np.ndarray]
    facts: dict[str, str]

    def of(self, images: Any) -> dict[str, Any]:
        """The values of these images, ints (n,), by name."""
        images = np.asarray(images)
        return {k: taken(v, self.places[k][images]) for k, v in self.values.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256()
        for name, values in self.values.items():
            digest.update(name.encode())
            for part in tree.flatten([values, self.places[name]]):
                array = isinstance(part, np.ndarray) and part.dtype != object
                digest.update(
                    np.ascontiguousarray(part).tobytes() if array else repr(part).encode()
                )
        return digest.hexdigest()


def _balanced(network, names, count, seed, data):
    turns = {name: network.conditions[name].in_turn(count) for name in names}
    uncounted = [name for name in names if turns[name] is None]
    if uncounted:  # then those that the data has beside them are of the same images
        known = [name for name in names if name in uncounted or name in (data or {})]
        found = _like_the_data(network, known, count, seed, data)
    else:
        found = Told({}, {}, {})
    for name in names:
        if name not in found.values:
            found.values[name], found.places[name] = turns[name], np.arange(count)
            found.facts[name] = "balanced"
    return found


def _like_the_data(network, names, count, seed, data):
    data = data or {}
    for name in names:
        if name not in data:
            what = "labels" if name == "label" else name
            raise ValueError(
                f"the network is told {what}: that takes a reference that has {what}, or "
                "conditions=; by the policy 'none' nothing is said"
            )
    if not names:
        return Told({}, {}, {})
    values = {name: data[name] for name in names}
    # By the raw numbers of the generator, which are the same in every version of numpy.
    words = draws.permutation(count, seed, 0)
    total = len(tree.flatten(values)[0]) if "label" not in values else len(values["label"])
    order = np.arange(total)
    if "label" in values:  # so that each class has its share
        order = np.argsort(values["label"], kind="stable")
    places = order[((words + 0.5) / count * total).astype(int)]
    return Told(values, dict.fromkeys(names, places), dict.fromkeys(names, "as the reference has"))


def _none(network, names, count, seed, data):
    return Told({}, {}, dict.fromkeys(names, "nothing said"))


# (network, names, count, seed, data) -> Told of the conditions of these names.
POLICIES = Registry("labels", {"balanced": _balanced, "data": _like_the_data, "none": _none})


def _length(values):
    return len(values[0]) if isinstance(values, tuple) else len(values)


def told(
    network: Any,
    policy: str,
    count: int,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Told:
    """What each image of a set is told.

    Args:
        network: a `DiTModel`, whose conditions they are.
        policy: a name of `POLICIES`, for the conditions that are not given.
        count: of images.
        seed: of the order.
        given: values by name, which the images get in turn.
        data: what the reference knows of its images, values by name.

    Raises:
        ValueError: for another policy, values that a condition refuses, or a condition of which
            nothing is known.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=3)
    >>> told(network, "balanced", count=5).of(range(5))["label"].tolist()
    [0, 1, 2, 0, 1]
    >>> told(network, "data", 4, data={"label": np.array([1, 0, 1, 1])}).of([0, 1])["label"].shape
    (2,)
    """
    one_of("labels", policy, POLICIES)
    given = dict(given or {})
    strange = [name for name in given if name not in network.told]
    if strange:
        has = ", ".join(network.told) or "none"
        raise ValueError(f"conditions must be of the network, {has}. Received: {strange[0]}")
    names = [name for name in network.told if name not in given]
    found = POLICIES[policy](network, names, count, seed, data)
    for name, values in given.items():
        found.values[name] = values
        found.places[name] = np.arange(count) % max(1, _length(values))
        found.facts[name] = f"given, {_length(values)} in turn"
    for name, values in found.values.items():
        _check(network.conditions[name], values)
    return found


def _check(condition, values):
    """Now, not when they are come to: numbers all of them, of anything else the first."""
    numbers = isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and values.ndim < 3
    condition.check(values if numbers else taken(values, range(min(64, _length(values)))))
