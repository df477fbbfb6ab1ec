"""A class label."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.conditions.base import Condition, Context
from keras_dit.serialization import register


@register
class Label(Condition):
    """One of K classes -> a vector, from a table with one more row for "no class".

    Args:
        num_classes: number K of classes.
        hidden_size, dropout: as for every `Condition`.

    Call:
        labels (B,) of integers 0 … K, K for no class -> `Context` with a vector (B, D).

    Raises:
        ValueError: if num_classes is not an integer of 1 or more.

    Example:
        >>> import numpy as np
        >>> label = Label(10, hidden_size=8)
        >>> label(np.array([3, 1])).vector.shape == (2, 8)
        True
    """

    def __init__(self, num_classes: int, hidden_size: int | None = None, **kwargs):
        super().__init__(hidden_size, **kwargs)
        if isinstance(num_classes, np.integer):
            num_classes = int(num_classes)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                "num_classes must be an integer of 1 or more. "
                f"Received: num_classes={num_classes!r}"
            )
        self.num_classes = num_classes

    def build(self, input_shape: tuple | None = None) -> None:
        self.table = self.add_weight(
            shape=(self.num_classes + 1, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
        )

    def check(self, values: Any, count: int | None = None) -> np.ndarray:
        """Labels as numpy int32 (n,); None in a list of them stands for no class."""
        values = [values] if isinstance(values, (int, type(None))) else values
        given = np.array([value is not None for value in values], bool)
        labels = np.full(len(given), self.num_classes, "int32")
        kept = values if given.all() else [value for value in values if value is not None]
        if given.all() or given.any():
            labels[given] = check_labels(kept, self.num_classes)
        if count is not None and len(labels) != count:
            raise ValueError(f"labels must be {count} in number. Received: {len(labels)}")
        return labels

    def in_turn(self, count: int) -> np.ndarray:
        return np.arange(count, dtype="int32") % self.num_classes

    def null(self, count: int) -> np.ndarray:
        return np.full(count, self.num_classes, "int32")

    def prepare(self, values: Any) -> Any:
        return ops.reshape(ops.cast(values, "int32"), (-1,))

    def admit(self, values: Any) -> Any:
        # The null label is no class of a data set: one-based labels would train it unseen.
        labels = self.prepare(values)
        return ops.where(labels < self.num_classes, labels, -1)

    def embed(self, labels: Any) -> Any:
        known = ops.expand_dims((labels >= 0) & (labels <= self.num_classes), -1)
        rows = ops.take(self.table, ops.clip(labels, 0, self.num_classes), axis=0)
        rows = ops.where(known, rows, float("nan"))
        return Context(vector=ops.cast(rows, self.compute_dtype))  # (B, D)

    def silence(self) -> bool:
        self.table.assign(np.zeros(self.table.shape, "float32"))
        return True

    def get_config(self) -> dict:
        return {**super().get_config(), "num_classes": self.num_classes}


def check_labels(
    labels: Any, num_classes: Any, count: int | None = None, name: str = "labels"
) -> np.ndarray:
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
            f"{name} must be a one-dimensional list of integers{_remedy(array, num_classes)}. "
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


def _remedy(array, num_classes):
    """What to do with labels that are nearly right, for the message."""
    if array.ndim == 2 and array.shape[1] == num_classes:
        return ": of one-hot labels give labels.argmax(axis=-1)"
    if array.ndim == 1 and array.dtype.kind == "f" and (array == array.round()).all():
        return ': of whole numbers give labels.astype("int32")'
    return ""
