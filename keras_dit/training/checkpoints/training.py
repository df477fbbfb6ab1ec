"""One training where Keras runs two: it begins with an epoch, so the rest of one comes first."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_dit.training.callbacks import Callbacks
from keras_dit.training.checkpoints import positions

__all__ = ["OneTraining"]


class OneTraining(Callbacks):
    """Callbacks that see one training, from where the checkpoint stands on.

    Args:
        checkpoint: the `Checkpoint`.
        data: what `fit` reads.
        model: the `Diffusion`.
        epochs, verbose: as for `keras.Model.fit`.
    """

    def __init__(self, checkpoint: Any, data: Any, model: Any, epochs: int, verbose: Any):
        # The last, so that it saves what the others changed.
        callbacks = [*checkpoint.others, checkpoint]
        super().__init__(callbacks, getattr(data, "steps", None), model, epochs, verbose)
        self.checkpoint, self.data, self.trained = checkpoint, data, model
        self.offset = 0  # of the batches that Keras counts
        self.begun, self.last_logs = False, None
        self.weights: list = []

    def run(self, fit: Callable, begin: int, epochs: int, arguments: dict) -> Any:
        """Train; returns the history."""
        arguments = {**arguments, "callbacks": self, "verbose": 0}
        step = self.checkpoint.step
        if step:
            self.data.start = self.offset = step
            fit(self.data, initial_epoch=begin, epochs=begin + 1, **arguments)
            self.data.start = self.offset = 0
            # Some optimizers put other weights into the model at the end of `fit`.
            for variable, value in zip(self.trained.trainable_variables, self.weights, strict=True):
                variable.assign(value)
        if not (step and self.trained.stop_training):
            fit(self.data, initial_epoch=begin + bool(step), epochs=epochs, **arguments)
        super().on_train_end(self.last_logs)
        return self.trained.history

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.begun:
            self.begun = True
            self.checkpoint.restore()
            super().on_train_begin(logs)
            self.checkpoint.recall()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if isinstance(self.data, positions.EpochView):
            self.data.epoch = epoch
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.offset:
            variables = self.checkpoint.model.trainable_variables
            self.weights = [np.array(ops.convert_to_numpy(variable)) for variable in variables]

    def on_train_batch_begin(self, batch: Any, logs: Any = None) -> None:
        super().on_train_batch_begin(batch + self.offset, logs)

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        super().on_train_batch_end(batch + self.offset, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.last_logs = logs
