"""Steps that are not applied, because their loss or a gradient is not finite."""

import math
import time
from typing import Any

import keras
from keras import ops

__all__ = ["MOST_IN_A_ROW", "Progress", "StopOnSkips"]

# float16 needs up to 15 until its loss scale, 2¹⁵ at first, has come down to 1.
MOST_IN_A_ROW = 20


class StopOnSkips(keras.callbacks.Callback):
    """Ends `fit` when all of so many steps were skipped.

    It looks every so many steps: reading a number makes the program wait for the device.

    Raises:
        FloatingPointError: which names the step. The model is as after the last applied step.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        self.total, self.steps = int(ops.convert_to_numpy(self.model.skipped)), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: Any, logs: Any = None) -> None:
        self.begin = batch

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        self.steps += batch + 1 - self.begin  # compiled together, several at once
        if self.steps < MOST_IN_A_ROW:
            return
        before, self.total = self.total, int(logs["skipped"])
        steps, self.steps = self.steps, 0
        if self.total - before == steps:
            raise FloatingPointError(
                f"training stopped at step {batch + 1} of epoch {self.epoch + 1}: in the last "
                f"{steps} steps the loss or a gradient was not finite, or a label out of range. "
                "None of them was applied. A lower learning rate helps"
            )


class Progress(keras.callbacks.ProgbarLogger):
    """Keras's bar of `fit`, which says how many steps were skipped where there are any.

    It looks at the numbers of a step ten times a second at most.
    """

    looked = -math.inf

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        self.seen, now = batch + 1, time.monotonic()
        if now - self.looked >= 0.1:
            self.looked = now
            super().on_train_batch_end(batch, _shown(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, _shown(logs))


def _shown(logs):
    logs = dict(logs or {})
    if "skipped" in logs and not int(ops.convert_to_numpy(logs["skipped"])):
        del logs["skipped"]
    return logs
