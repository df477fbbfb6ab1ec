"""Parts: unbuilt layers that another layer is made of and copies."""

from typing import Any

import keras


def copy_part(
    part: keras.layers.Layer, name: str, owner: keras.layers.Layer, **settings: Any
) -> keras.layers.Layer:
    """A new layer of a part's configuration, with the dtype policy of the layer that it is for.

    Args:
        part: a layer that is not built.
        name: of the copy, which stands for the part in errors too.
        owner: the layer that it becomes a part of.
        **settings: of its configuration, those that the owner decides.

    Raises:
        ValueError: if the part is no layer, one that has weights already, or one whose
            configuration does not make another.
    """
    if not isinstance(part, keras.layers.Layer) or part.weights:
        raise ValueError(
            f"{name} must be a Keras layer without weights yet, of which a copy is built. "
            f"Received: {name}={part!r}"
        )
    try:
        config = {**part.get_config(), **settings, "name": name, "dtype": owner.dtype_policy}
        return type(part).from_config(config)
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"{name} is copied by its configuration: get_config() has to return all arguments of "
            "__init__, which has to take **kwargs for name and dtype, of a class with the "
            "decorator @keras.saving.register_keras_serializable(). "
            f"Received: {name}={part!r}, and of it: {' '.join(str(error).split())[:300]}"
        ) from error


def save_part(part: keras.layers.Layer | None) -> dict | None:
    """A part as a configuration holds it: not built, and None as None."""
    saved = keras.saving.serialize_keras_object(part)
    if saved:
        saved.pop("build_config", None)
    return saved


def load_parts(config: dict, *names: str) -> dict:
    """A configuration in which the parts of those names, or pairs or dicts of parts, are layers."""
    load = keras.saving.deserialize_keras_object
    saved = {n for n in names if isinstance(config.get(n), (dict, list, tuple))}
    return {name: load(value) if name in saved else value for name, value in config.items()}


def shapes_of_today(build_config: dict) -> dict:
    """The arguments of `build` in a file, in which 0.1.0 called the context conditioning."""
    shapes = build_config.get("shapes_dict") or {"tokens_shape": build_config["input_shape"]}
    return {name.replace("conditioning", "context"): shape for name, shape in shapes.items()}
