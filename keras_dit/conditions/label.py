"""What a network is told beside the picture: a value -> its embedding, and the null value."""

import keras
import numpy as np
from keras import ops

from keras_dit.serialization import register


@register
class LabelEmbedding(keras.layers.Layer):
    """Class label -> vector, from a table with one more row for "no class", the null label.

    In training a label is replaced by the null label with probability `dropout`, so that one
    network learns both the conditional and the unconditional distribution.

    Args:
        num_classes: number K of classes; K itself is the null label.
        hidden_size: width D of the embedding.
        dropout: probability in [0, 1) that a label is dropped in training.

    Call:
        labels (B,) of int32 in 0 … K -> (B, D).

    Reference:
        Ho, Salimans: Classifier-Free Diffusion Guidance (2022), algorithm 1.
    """

    def __init__(self, num_classes, hidden_size, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.seed_generator = keras.random.SeedGenerator()

    @property
    def null_label(self):
        """The label that stands for no class."""
        return self.num_classes

    def build(self, input_shape=None):
        self.table = self.add_weight(
            shape=(self.num_classes + 1, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
        )

    def call(self, labels, training=None):
        if training and self.dropout > 0:
            chance = keras.random.uniform(ops.shape(labels), seed=self.seed_generator)
            labels = ops.where(chance < self.dropout, self.null_label, labels)
        return ops.cast(ops.take(self.table, labels, axis=0), self.compute_dtype)  # (B, D)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.hidden_size)

    def get_config(self):
        own = {
            "num_classes": self.num_classes,
            "hidden_size": self.hidden_size,
            "dropout": self.dropout,
        }
        return {**super().get_config(), **own}


def check_labels(labels, num_classes, count=None, name="labels"):
    """Class labels on the host, before any of them can index out of a table.

    JAX gives NaN for a label that is too large and every backend wraps −1 to the null class, so
    neither may reach the network.

    Args:
        labels: integers in 0 … num_classes − 1, any array-like.
        num_classes: number of classes.
        count: how many there have to be; None: any number.
        name: of the argument, for the messages.

    Returns:
        numpy int32 (n,).

    Raises:
        ValueError: for a label out of range, a number type that is not integer, or a wrong count.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} must be a one-dimensional list of integers. "
            f"Received: {name} of shape {array.shape} and type {array.dtype}"
        )
    wrong = (array < 0) | (array >= num_classes)
    if wrong.any():
        raise ValueError(
            f"{name} must lie in 0 ... {num_classes - 1}. Received: {array[wrong][0]} "
            f"at index {int(np.argmax(wrong))}"
        )
    if count is not None and len(array) != count:
        raise ValueError(f"{name} must be {count} in number. Received: {len(array)}")
    return array.astype("int32")
