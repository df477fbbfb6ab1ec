"""What a network is told beside the image: a value -> vectors and tokens, and "nothing said".

A condition is one class in one file. It alone knows what its values mean: to the rest of the
library a value is a nest of arrays with a leading batch axis.
"""

from typing import Any

import keras
from keras import ops, tree

from keras_dit import backend
from keras_dit.layers import Context
from keras_dit.schedules.base import columns
from keras_dit.serialization import register


class Condition(keras.layers.Layer):
    """Something a network can be told. Subclasses give `check`, `null` and `embed`.

    In training the value of a sample is replaced by the null value now and then, so that one
    network learns the distribution with and without the condition (classifier-free guidance).

    Args:
        hidden_size: width D of what it gives; None: that of the network it is passed to.
        dropout: probability in [0, 1) that a sample's value is dropped in training, by itself;
            None: it is dropped together with the other conditions of the network.

    Call:
        values, a nest of tensors (B, ...) as `check` returns it -> `Context`.

    Reference:
        Ho, Salimans: Classifier-Free Diffusion Guidance (2022), algorithm 1.
    """

    gives_tokens = False  # whether its context has tokens, which a block has to attend to
    of_process = False  # whether its values are set by the process, not by who uses the network

    def __init__(self, hidden_size: int | None = None, dropout: float | None = None, **kwargs):
        # Without autocast values arrive as they are: bfloat16 would round numbers.
        super().__init__(autocast=False, **kwargs)
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be None or in [0, 1). Received: dropout={dropout!r}")
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.seed_generator = backend.SeedGenerator()

    def check(self, values: Any, count: int | None = None) -> Any:
        """Values on the host, before any work is done with them.

        Args:
            values: what a user gave: one for each sample. None in a list stands for the null value.
            count: how many there have to be; None: any number.

        Returns:
            A nest of numpy arrays (n, ...), of the structure of `null`.

        Raises:
            ValueError: which names what was allowed and what came.
        """
        raise NotImplementedError

    def null(self, count: int) -> Any:
        """The value "nothing said" for so many samples, a nest of numpy arrays (count, ...)."""
        raise NotImplementedError

    def in_turn(self, count: int) -> Any:
        """Each of its values in turn, so many in all; None where they cannot be counted.

        What a set of images gets that is to have as many of each.
        """
        return None

    def embed(self, values: Any) -> Context:
        """The `Context` of values, tensors of the structure of `null`."""
        raise NotImplementedError

    def prepare(self, values: Any) -> Any:
        """Tensors of the structure of `null`, of values as a data set may hold them."""
        return tree.map_structure(ops.convert_to_tensor, values)

    def admit(self, values: Any) -> Any:
        """Values of a training batch, tensors, of which only the first was seen by `check`.

        What `check` would refuse becomes something that embeds to NaN, so that the step is skipped.
        """
        return values

    def __call__(self, values: Any, training: bool | None = None) -> Any:
        if any(isinstance(value, keras.KerasTensor) for value in tree.flatten(values)):
            there = ContextParts(self, name=self.name)
            return Context(**there(values, training=training))
        return super().__call__(values, training=training)

    def call(self, values: Any, training: bool | None = None) -> Any:
        values = self.prepare(values)
        if training and self.dropout:
            count = ops.shape(tree.flatten(values)[0])[0]
            values = self.drop(values, self.draw(count, self.dropout))
        return self.embed(values)

    def silence(self) -> bool:
        """Have its weights add nothing to the vector, whatever is said; it learns from there.

        So a network that is trained already can be told more without a change at first.

        Returns:
            Whether that is so; a class without this method starts as it was built.
        """
        return False

    @property
    def places(self) -> int:
        """How many tokens it gives."""
        return 0

    @property
    def words(self) -> str:
        """What it is told, in words, for people."""
        return type(self).__name__

    @property
    def output_shape(self):
        """Of what it adds to the network's context, for `summary`."""
        return (None, *([None] if self.gives_tokens else []), self.hidden_size)

    def draw(self, count: Any, rate: float) -> Any:
        """Which of so many samples lose their value, each with that probability, bool (count,)."""

        def draw(n):
            return keras.random.uniform((n,), seed=self.seed_generator) < rate

        return backend.drawn(draw, count)

    def drop(self, values: Any, dropped: Any) -> Any:
        """The values with the null value in the place of those that are dropped, bool (B,)."""
        null = tree.map_structure(ops.convert_to_tensor, self.null(1))
        return tree.map_structure(
            lambda value, nothing: ops.where(columns(dropped, value), nothing, value),
            self.prepare(values),
            null,
        )

    def get_config(self) -> dict:
        own = {"hidden_size": self.hidden_size, "dropout": self.dropout}
        return {**super().get_config(), **own}


@register
class ContextParts(keras.layers.Layer):
    """A condition in a functional model, whose layers cannot give None: what its `Context` has.

    Args:
        condition: a `Condition`.

    Call:
        values of the condition -> dict of tensors, those parts of the `Context` that are not None.
    """

    def __init__(self, condition: Condition, **kwargs):
        super().__init__(autocast=False, **{"dtype": condition.dtype_policy, **kwargs})
        self.condition = condition

    def build(self, *_) -> None:
        if not self.condition.built:
            self.condition.build(None)
            self.condition.built = True

    def call(self, values: Any, training: bool | None = None) -> Any:
        context = self.condition(values, training=training)
        return {name: part for name, part in context._asdict().items() if part is not None}

    def get_config(self) -> dict:
        condition = keras.saving.serialize_keras_object(self.condition)
        return {"name": self.name, "condition": condition}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(keras.saving.deserialize_keras_object(config.pop("condition")), **config)
