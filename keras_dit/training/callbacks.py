"""The callbacks of a training, whose logs are read from the device when one of them looks.

Keras reads every number of every step, and so waits for each step before it begins the next. Of a
GPU whose steps take milliseconds that leaves the time idle in which the next one is prepared.
"""

import contextlib
import math
from typing import Any

import keras
from keras import ops

from keras_dit import backend

__all__ = ["Callbacks", "Logs", "steps"]


class Logs(dict):
    """The numbers of a step, on the device until the first of them is asked for.

    >>> logs = Logs({"loss": keras.ops.ones(())})
    >>> logs["loss"]
    1.0
    """

    unread = True

    def __init__(self, numbers: Any = ()):
        super().__init__(sorted(dict(numbers).items()))  # as Keras has them

    def read(self) -> None:
        """Wait for the step, and have its numbers as Python's; what is none stays."""
        if self.unread:
            self.unread = False
            for name, number in self.items():
                with contextlib.suppress(TypeError, ValueError):
                    self[name] = float(ops.convert_to_numpy(number))


def _reading(name):
    method = getattr(dict, name)

    def read(self, *arguments):
        self.read()
        return method(self, *arguments)

    return read


# `__iter__` so that dict(logs) and {**logs} ask too.
ASK = ("copy", "get", "items", "pop", "popitem", "setdefault", "values")
for _name in (*ASK, *(f"__{n}__" for n in ("eq", "getitem", "iter", "ne", "or", "repr", "ror"))):
    setattr(Logs, _name, _reading(_name))


class Callbacks(keras.callbacks.CallbackList):
    """Keras's, of a training that waits for a step's numbers only where a callback asks for them.

    Args:
        callbacks: of `fit`.
        steps: of an epoch, or None where that is not known.
        model, epochs, verbose: as `fit` has them.
    """

    def __init__(self, callbacks: Any, steps: int | None, model: Any, epochs: int, verbose: Any):
        super().__init__(
            callbacks,
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
            model=model,
        )
        self.pace = backend.Pace()

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        self.pace.step(logs)
        logs = Logs(logs or {})
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs=logs)

    def on_test_batch_end(self, batch: Any, logs: Any = None) -> None:
        logs = Logs(logs or {})
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs=logs)


def steps(
    x: Any,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    validation_split: float = 0.0,
) -> int | None:
    """Batches that Keras reads in an epoch, or None where that shows at its end.

    Args:
        x: images, or a data set.
        batch_size, steps_per_epoch, validation_split: as for `keras.Model.fit`.
    """
    if steps_per_epoch is not None:
        return steps_per_epoch
    if hasattr(x, "shape"):
        count = math.floor(x.shape[0] * (1.0 - validation_split))
        return math.ceil(count / (batch_size or 32))
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    if hasattr(x, "cardinality"):  # a tf.data.Dataset; below 0 are those that it does not know
        return max(int(x.cardinality()), 0) or None
    return len(x) if hasattr(x, "dataset") and hasattr(x.dataset, "__len__") else None
