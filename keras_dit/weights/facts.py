"""What travels with weights beside their tensors: process, class names, what no shape says.

The facts are one JSON object, which a format keeps where its program does not see it:

    network       the arguments of `DiTModel` that the tensors leave open
    process       the arguments of `Diffusion` that belong to the weights
    class_names   names of the classes, in their order
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dit.networks import DiTModel
from keras_dit.notices import warn
from keras_dit.serialization import Configurable

NAME = "keras_dit"  # under which files keep them
PARTS = ("process", "schedule", "prediction", "objective", "codec")
_NETWORK = (
    "input_shape", "num_heads", "condition_dropout", "frequency_shift", "mlp_epsilon",
    "learned_variance", "output_channels", "in_context_start",
)  # fmt: skip


def of(network: DiTModel, process: Mapping[str, Any], class_names: Sequence[str] | None) -> dict:
    """The facts of a network, as JSON has them.

    A part of the process that is not of numbers and text alone, such as a codec with a network of
    its own, stays behind with a warning.

    Raises:
        ValueError: for another number of names than of classes, or what is no part of a process.
    """
    unknown = [name for name in process if name not in PARTS]
    if unknown:
        raise ValueError(f"only {', '.join(PARTS)} travel with weights. Received: {unknown[0]}=")
    if class_names is not None and len(class_names) != network.num_classes:
        raise ValueError(
            f"class_names must be {network.num_classes} names. Received: {len(class_names)}"
        )
    return {
        "network": {
            **{k: _plain(v) for k, v in network.config.items() if k in _NETWORK},
            # The parts of a DiT differ in these two alone.
            "frequency_shift": network.time.frequency_shift,
            "mlp_epsilon": network.blocks[0].mlp_norm.epsilon,
        },
        "process": _plain_parts(process),
        **({"class_names": list(map(str, class_names))} if class_names is not None else {}),
    }


def text(facts: Mapping[str, Any]) -> str:
    """The facts as a file keeps them."""
    return json.dumps(facts, sort_keys=True)


def parsed(written: str | None, path: Any) -> dict:
    """The facts in a file's note; none, if there is none.

    Raises:
        ValueError: if they are damaged.
    """
    try:
        facts = json.loads(written or "{}")
        kinds = {"network": dict, "process": dict, "class_names": list}
        if not all(isinstance(facts.get(name, kind()), kind) for name, kind in kinds.items()):
            raise ValueError("it is no object of facts")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is corrupt: its note {NAME}: {error}") from None
    settings = {k: _value(v) for k, v in facts.get("network", {}).items() if k in _NETWORK}
    return {**facts, "network": settings}


def process(facts: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """The arguments of `Diffusion` that the facts name.

    Raises:
        ValueError: for a class that nobody has registered here.
    """
    try:
        return {k: _value(v) for k, v in facts.get("process", {}).items() if k in PARTS}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the process that {path} was written with cannot be made: {error}. "
            "Import the module that registers it, or give a process"
        ) from None


def codec(facts: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """{"codec": ...} if the facts name one."""
    named = {k: v for k, v in facts.get("process", {}).items() if k == "codec"}
    return process({"process": named}, path)


def _plain_parts(process):
    """The parts of a process as JSON has them, those that it can hold."""
    plain = {}
    for name, part in process.items():
        try:
            plain[name] = _plain(part)
        except ValueError as error:
            warn(f"{error}: whoever loads these weights has to give {name}=")
    return plain


def _plain(value):
    """A part of a process as JSON has it."""
    name = keras.saving.get_registered_name(type(value))
    if isinstance(value, Configurable) and keras.saving.get_registered_object(name):
        config = {field: _plain(part) for field, part in value.get_config().items()}
        return {"class": name, "config": config}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"a {type(value).__name__} does not travel with weights")


def _value(value):
    """What `_plain` was given. A class is looked up among those registered, never imported."""
    if isinstance(value, dict):
        kind = keras.saving.get_registered_object(value["class"])
        if not (isinstance(kind, type) and issubclass(kind, Configurable)):
            raise ValueError(f"no class {value['class']} is registered")
        return kind(**{name: _value(part) for name, part in value["config"].items()})
    return tuple(map(_value, value)) if isinstance(value, list) else value
