"""What makes a frozen dataclass part of a `.keras` file."""

import dataclasses

import keras

register = keras.saving.register_keras_serializable("keras_dit")


class Configurable:
    """A dataclass that Keras can save: its configuration is its fields.

    A field may hold a number, a string, None, or another configurable or Keras object.
    """

    def get_config(self):
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """The object of that configuration."""
        load = keras.saving.deserialize_keras_object
        return cls(**{name: load(value) for name, value in config.items()})
