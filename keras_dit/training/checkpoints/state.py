"""The state of a training as arrays: weights, average, optimizer, random numbers, metrics."""

import collections
import os
import re
import sys

import keras
import numpy as np
from keras import ops

from keras_dit import notices
from keras_dit.backend import BACKEND, fingerprints
from keras_dit.training.checkpoints import files, names

__all__ = ["load", "save", "taken", "variables"]


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Every variable that a step of `fit` reads or moves, by a name that all runs share.

    Args:
        model: a compiled `Diffusion`.

    Returns:
        dict: `network/…`, `average/…` under the same names, `optimizer/…`, `metrics/…`, and
        `state/…` for what is left, such as the states of the random numbers. What the codec or the
        objective holds is not among them, nor what is below adapters (LoRA): no step moves it.
    """
    network, average, optimizer = model.network, model.average, model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    if average is not None:
        average.settle()
    kept = names.below_adapters(network)
    weights = names.of_weights(network).items()
    named = {f"network/{name}": weight for name, weight in weights if name not in kept}
    named["skipped"] = model.skipped
    if average is not None:
        named["average/updates"] = average.updates
        for prefix, profile in average.by_prefix.items():
            held = average.by_name(profile)
            named |= {f"average/{prefix}{name}": value for name, value in held.items()}
    for name, variable in zip(_optimizer_names(model), optimizer.variables, strict=True):
        named[f"optimizer/{name}"] = variable
    named |= {f"metrics/{variable.path}": variable for variable in model.metrics_variables}
    known = {id(variable) for variable in named.values()}
    still = [*model.codec_layers, *model.objective.layers]
    known |= {id(variable) for layer in still for variable in layer.variables}
    known |= {id(variable) for variable in kept.values()}
    rest = [variable for variable in model.variables if id(variable) not in known]
    named |= {f"state/{index}_{v.name}": v for index, v in enumerate(rest)}
    return named


def _optimizer_names(model):
    """A name for each variable of the optimizer: its path if that tells it apart, else its place.

    Some variables of Keras have a path that others have too, or one that Keras counts up (those of
    Adafactor, one of Nadam).
    """
    found = []
    for variable in model.optimizer.variables:
        owner, _, name = variable.path.partition("/")
        owner = re.sub(r"_\d+$", "", owner)  # the second AdamW of a program is adam_w_1
        found.append(f"{owner}/{name.removeprefix(f'{model.network.name}_')}")
    count = collections.Counter(found)
    return [
        f"{place}" if count[name] > 1 or re.search(r"/(variable(_\d+)?)?$", name) else name
        for place, name in enumerate(found)
    ]


def taken(model: keras.Model, facts: dict) -> tuple[dict, dict]:
    """The whole state of a training as it is now, for a file that is written later.

    Args:
        model: a compiled `Diffusion`.
        facts: what JSON can hold, by name, such as its place.

    Returns:
        Arrays by name, copies of the variables on the host; and the facts with the configuration
        and versions.
    """
    # Copies: what numpy is shown may be the variable's own memory, which the next step moves.
    arrays = {name: np.array(ops.convert_to_numpy(v)) for name, v in variables(model).items()}
    versions = {name: _version(name) for name in ("keras_dit", "keras", BACKEND)}
    own = {"backend": BACKEND, "versions": versions, "model": model.get_config(), **_below(model)}
    return arrays, own | facts


def save(path: str | os.PathLike, model: keras.Model, facts: dict) -> None:
    """Write what `taken` gives.

    Raises:
        OSError: if that fails.
    """
    files.write(path, *taken(model, facts))


def _below(model):
    """{"below": a fingerprint of each weight that is below adapters}: they belong to no others."""
    kept = names.below_adapters(model.network)
    marks = fingerprints(list(kept.values()))
    return {"below": dict(zip(kept, marks, strict=True))} if kept else {}


def _version(name):
    """What a module that is loaded calls itself: a fact to note, and no matter if it is unknown.

    The distribution that it came with may have another name (tensorflow-cpu), or be none.
    """
    return str(getattr(sys.modules.get(name), "__version__", "unknown"))


def load(model: keras.Model, path: str | os.PathLike, arrays: dict, facts: dict) -> None:
    """Put a state that was read into the model.

    Raises:
        ValueError: if a variable is missing on either side or has another shape or type; the
            model is then as it was.
    """
    own = variables(model)
    arrays = {names.of_today(name): array for name, array in arrays.items()}
    _check_names(path, own, arrays)
    if facts.get("below", {}) != _below(model).get("below", {}):
        raise ValueError(
            f"the checkpoint {path} holds adapters (LoRA) of a network with other weights: begin "
            "with those that they were trained on"
        )
    if facts["backend"] != BACKEND:
        notices.warn(
            f"{path} was written with {facts['backend']}: weights, average and optimizer are the "
            f"same here, but {BACKEND} draws other random numbers from here on"
        )
    for name, variable in own.items():
        # A copy, since the array is mapped from a file that may be replaced.
        variable.assign(
            np.array(arrays[name]).astype(keras.backend.standardize_dtype(variable.dtype))
        )
    if model.average is not None:
        model.average.trust()


def _check_names(path, own, arrays):
    missing = [f"{name} is not in the file" for name in own if name not in arrays]
    extra = [f"{name} is not in the model" for name in arrays if name not in own]
    other = [
        f"{name} is {arrays[name].dtype}{arrays[name].shape} in the file, "
        f"{own[name].dtype}{tuple(own[name].shape)} in the model"
        for name in own
        if name in arrays and not _fits(own[name], arrays[name])
    ]
    wrong = missing + extra + other
    if wrong:
        raise ValueError(
            f"the checkpoint {path} is of another configuration: {'; '.join(wrong[:3])}"
            + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        )


def _fits(variable, array):
    if tuple(variable.shape) != array.shape:
        return False
    # Backends count in integers of different widths.
    if array.dtype.kind in "iu":
        return True
    # JAX holds what is called float64 in float32.
    return keras.backend.standardize_dtype(variable.value.dtype) == str(array.dtype)
