"""The state of a training as arrays: weights, average, optimizer, random numbers, metrics."""

import importlib.metadata
import re
import warnings

import keras
import numpy as np
from keras import ops

from keras_dit.backend import BACKEND
from keras_dit.training.checkpoints import files


def variables(model):
    """Every variable that a step of `fit` reads or moves, by a name that all runs share.

    Args:
        model: a compiled `Diffusion`.

    Returns:
        dict: `network/…`, `average/…` under the same names, `optimizer/…`, `metrics/…`, and
        `state/…` for what is left, such as the states of the random numbers.
    """
    network, average, optimizer = model.network, model.average, model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    names = [weight.path.removeprefix(f"{network.name}/") for weight in network.weights]
    named = {f"network/{name}": weight for name, weight in zip(names, network.weights)}
    named["skipped"] = model.skipped
    if average is not None:
        named["average/updates"] = average.updates
        named |= {f"average/{name}": value for name, value in zip(names, average.values)}
    for variable in optimizer.variables:
        owner, _, name = variable.path.partition("/")
        name = name.removeprefix(f"{network.name}_")
        named[f"optimizer/{_without_number(owner)}/{name}"] = variable
    named |= {f"metrics/{variable.path}": variable for variable in model.metrics_variables}
    known = {id(variable) for variable in named.values()}
    rest = [variable for variable in model.variables if id(variable) not in known]
    named |= {f"state/{index}_{v.name}": v for index, v in enumerate(rest)}
    return named


def _without_number(name):
    # Keras numbers the objects of a class: the second AdamW of a program is adam_w_1.
    return re.sub(r"_\d+$", "", name)


def save(path, model, facts):
    """Write the whole state of a training, and facts such as its place.

    Args:
        path: of the file.
        model: a compiled `Diffusion`.
        facts: what JSON can hold, by name. Configuration and versions are added.

    Raises:
        OSError: if that fails.
    """
    arrays = {name: ops.convert_to_numpy(v) for name, v in variables(model).items()}
    versions = {name: importlib.metadata.version(name) for name in ("keras_dit", "keras", BACKEND)}
    model_facts = {"backend": BACKEND, "versions": versions, "model": model.get_config()}
    files.write(path, {name: np.asarray(a) for name, a in arrays.items()}, model_facts | facts)


def load(model, path, arrays, facts):
    """Put a state that was read into the model.

    Raises:
        ValueError: if a variable is missing on either side or has another shape or type; the
            model is then as it was.
    """
    own = variables(model)
    arrays = {_name_of_today(name): array for name, array in arrays.items()}
    _check_names(path, own, arrays)
    if facts["backend"] != BACKEND:
        warnings.warn(
            f"{path} was written with {facts['backend']}: weights, average and optimizer are the "
            f"same here, but {BACKEND} draws other random numbers from here on",
            stacklevel=2,
        )
    for name, variable in own.items():
        # A copy, since the array is mapped from a file that may be replaced.
        variable.assign(
            np.array(arrays[name]).astype(keras.backend.standardize_dtype(variable.dtype))
        )


def _name_of_today(name):
    """In files of 0.1.0 the two maps of a block's MLP stand directly below the block."""
    return re.sub(r"(block_\d+)([/_])(mlp_(?:in|out))", r"\1\2mlp\2\3", name)


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
    return array.dtype.kind in "iu" or keras.backend.standardize_dtype(variable.dtype) == str(
        array.dtype
    )
