"""What makes a frozen dataclass part of a `.keras` file."""

import dataclasses
import json
import os
import re
import zipfile
from typing import Any

import keras

from keras_dit import legacy

_NUMBER = "keras_dit.number"

register = keras.saving.register_keras_serializable("keras_dit")


def number(default: Any = dataclasses.MISSING, **settings: Any) -> Any:
    """A field of a frozen dataclass that holds numbers, which change without another program.

    Args:
        default: of the field.
        **settings: as for `dataclasses.field`.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Scaled:
        ...     scale: float = number(2.0)
        >>> Scaled().scale
        2.0
    """
    return dataclasses.field(default=default, metadata={_NUMBER: True}, **settings)


def is_number(field: dataclasses.Field) -> bool:
    """Whether the field was made by `number`."""
    return _NUMBER in field.metadata


class Configurable:
    """A dataclass that Keras can save: its configuration is its fields.

    A field may hold a number, a string, None, or another configurable or Keras object.

    Attributes:
        example: how an object of such a class is written, for messages.
    """

    example = ""

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """The value of an argument, which has to be an object of a class of this kind.

        Raises:
            ValueError: for anything else, with an example.
        """
        if not isinstance(value, cls):
            raise ValueError(
                f"{name} must be an object of a {cls.__name__} class, such as {cls.example}. "
                f"Received: {name}={value!r}"
            )
        return value

    def get_config(self):
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """The object of that configuration."""
        load = keras.saving.deserialize_keras_object
        config = legacy.translated(cls.__name__, config)
        return cls(**{name: load(value) for name, value in config.items()})


def load_model(path: str | os.PathLike, **settings: Any) -> Any:
    """`keras.saving.load_model` of a file that may be anything.

    Args:
        path: of a `.keras` file.
        **settings: as for `keras.saving.load_model`.

    Raises:
        ValueError: for a broken file, or one of a class that is not known here; by name.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .keras file, or a broken one")
    try:
        return keras.saving.load_model(path, **settings)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        unknown = re.search(r"Could not locate class '(.+?)'", str(error))
        if unknown:
            raise ValueError(
                f"{path} holds a {unknown[1]}, which is not known here: import the module that "
                "registers it first"
            ) from None
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is a broken .keras file: {said}") from error
