"""The callback that saves a training, at times and when it is asked to end."""

import contextlib
import inspect
import math
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend, interrupts, notices
from keras_dit.training.checkpoints import files, folder, positions, state
from keras_dit.training.checkpoints.training import OneTraining
from keras_dit.training.checkpoints.writer import Writer

__all__ = ["Checkpoint", "Interrupted", "plain"]

ENDING = "ending after this step, saved; once more: at once"


class Interrupted(KeyboardInterrupt):
    """Training was asked to end (Ctrl-C or SIGTERM) and was saved.

    Attributes:
        signal: number of the signal.
        path: the checkpoint.
    """

    def __init__(self, number: int, path: Any):
        super().__init__(f"interrupted; saved {path}")
        self.signal, self.path = number, path


class Checkpoint(keras.callbacks.Callback):
    """Saves a training of `Diffusion.fit` whole, so that it can go on bit for bit.

    A checkpoint holds weights, average, optimizer, the states of all random numbers, the place in
    the data, the loss of the epoch so far, the logs of the epochs before it, and the numbers that
    other callbacks of `fit` keep, such as how long `EarlyStopping` has waited. `best` is the one
    at the end of an epoch whose val_loss, or else loss, is the lowest of those saved; or what
    `monitor` names.

    Training waits while the state is copied to the host's memory, and goes on while the file is
    written from there.

    Ctrl-C and SIGTERM end the training after the present step, saved; a second one ends it at once.
    Of several processes that train together the first one writes, and all have to see the folder.

    Args:
        folder: where the checkpoints are; created if missing.
        every: seconds of training between two checkpoints, at least; 0: one after each step; None:
            a minute, and fifty times what the last one took, so that saving costs a few percent
        keep: how many are kept, the newest, beside the best.
        resume: whether to go on from the newest checkpoint of the folder, if it has one. The model
            and the data have to be those of the run; without a checkpoint the training begins.
        changes: what of the data may be otherwise than it was: "batch_size", "flip", "shuffle",
            "seed". The run is then another one from there on. Within an epoch it goes on after the
            images that it has seen, to the nearest batch.
        monitor: a number in the logs whose lowest value is the best, such as the score of an
            `evaluation.Scoring` that stands before this callback; every epoch with a new lowest
            is saved. None: val_loss, or else loss, of the epochs that are saved anyway.

    Raises:
        ValueError: if the folder has checkpoints and `resume` is False; in `fit`, if the model or
            the data are not those of the checkpoint.
        CorruptCheckpointError: if the folder has checkpoints and none is whole.
        OSError: in `fit`, at the first step after a checkpoint could not be written. Those before
            it stay.
        Interrupted: in `fit`, after Ctrl-C or SIGTERM.

    Example:

    >>> checkpoint = Checkpoint("run/checkpoints", resume=True)
    >>> # diffusion.fit(images, labels, epochs=100, callbacks=[checkpoint]); the same line goes on
    >>> checkpoint.keep
    3
    """

    def __init__(
        self,
        folder: Any,
        every: Any = None,
        keep: int = 3,
        resume: Any = False,
        changes: Any = (),
        monitor: str | None = None,
    ):
        super().__init__()
        if keep < 1:
            raise ValueError(f"keep must be 1 or more. Received: keep={keep}")
        if not (every is None or every >= 0):
            raise ValueError(f"every must be 0 or more seconds. Received: every={every}")
        self.folder, self.every, self.keep, self.resume = pathlib.Path(folder), every, keep, resume
        self.changes, self.monitor = tuple(changes), monitor
        self.epoch = self.step = self.steps = 0  # epochs done, steps done in the next, in all
        self.best = math.inf
        self.rows: list[dict] = []
        self.data: dict = {}
        self.others: list = []  # the other callbacks of the training
        self._writer = Writer()
        self._found = self._metrics = self._saved = None
        # Of a signal: that this process was asked to end by, and that all are to end by now.
        self._heard = self._signal = 0
        self._numbers: list = []  # of the other callbacks, as they were saved

    # A training

    def train(
        self,
        model: Any,
        fit: Callable,
        x: Any,
        y: Any,
        *,
        sample_weight: Any,
        callbacks: Any,
        epochs: int,
        verbose: Any,
        initial_epoch: int = 0,
        **rest,
    ) -> Any:
        """Train with this checkpoint, from where it stands on.

        Args:
            model: a compiled `Diffusion`.
            fit: Keras's `fit` of the model.
            x, y, sample_weight: arrays or None, or a data set. One with `batch(epoch, index)`, such
                as `ImageBatches`, can go on within an epoch.
            callbacks: of the training, this one among them.
            epochs, verbose, initial_epoch, **rest: as for `keras.Model.fit`.

        Returns:
            The history of the whole run.
        """
        facts = self.open()
        data = positions.placed(x, y, sample_weight, rest, facts.get("data", {}).get("seed"))
        if isinstance(data, positions.EpochView):
            self.data = positions.description(data.data)
            if facts:
                positions.check_same(self.folder, self.data, facts["data"], self.changes)
                seen = self.step * facts["data"].get("batch_size", 1)
                self.step = seen // self.data.get("batch_size", 1)
        elif self.step:
            notices.warn(
                f"{type(data).__name__} cannot be read from a given batch on: epoch "
                f"{self.epoch + 1} begins again, with the state that was saved in it"
            )
            self.step = 0
        self.others = [callback for callback in callbacks if callback is not self]
        one = OneTraining(self, data, model, epochs=epochs, verbose=verbose)
        with self.signals():
            try:
                history = one.run(fit, max(self.epoch, initial_epoch), epochs, rest)
            finally:
                self._writer.wait()
            if self._is_asked():  # while the end was saved
                raise Interrupted(self._signal, self._saved)
            return history

    # The place to go on from

    def open(self) -> dict:
        """Find the newest checkpoint.

        Returns:
            Its facts, {} if there is none. `epoch` and `step` of the callback are its place.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.resume:
            if folder.paths(self.folder):
                raise ValueError(
                    f"{self.folder} holds checkpoints already: Checkpoint(..., resume=True) goes "
                    "on with them, another folder begins anew"
                )
            return {}
        self._found = folder.newest(self.folder)
        if self._found is None:
            return {}
        self._saved, _, facts = self._found
        self.epoch, self.step, self.steps = facts["epoch"], facts["step"], facts["steps"]
        self.rows = facts["history"]
        if facts.get("monitor") == self.monitor:  # else it is the lowest of something else
            self.best = facts["best"]
        self._numbers = facts.get("callbacks", [])
        return facts

    def restore(self) -> Any:
        """Put the checkpoint that was found into the model; as the training begins."""
        self._saved_at = self._epoch_saved_at = time.monotonic()
        if self._found is None:
            return
        state.load(self.model, *self._found)
        arrays, self._found = self._found[1], None
        if self.step:  # Keras clears the metrics at the start of the epoch
            self._metrics = {n: a.copy() for n, a in arrays.items() if n.startswith("metrics/")}

    def recall(self) -> Any:
        """Give the history and the other callbacks what they had, after they have begun anew."""
        for callback, (name, numbers) in zip(self.others, self._numbers, strict=False):
            if type(callback).__name__ == name:
                vars(callback).update(numbers)
        self.model.history.epoch = [row["epoch"] for row in self.rows]
        for row in self.rows:
            for name in row.keys() - {"epoch"}:
                self.model.history.history.setdefault(name, []).append(row[name])

    # What Keras calls

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._metrics:
            variables = state.variables(self.model)
            for name, value in self._metrics.items():
                variables[name].assign(value)
            self._metrics = None

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        # Several steps at once, the last ones fewer: Keras then counts beyond the epoch's end.
        done = min(batch + 1, self.params["steps"] or batch + 1)
        self.steps += done - self.step
        self.step = done
        self._writer.look()
        if self.step == self.params["steps"]:
            return  # the end of the epoch follows, with its logs
        if self._is_asked() or self._is_due(self._saved_at):
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch, self.step = epoch + 1, 0
        self.rows.append({"epoch": epoch, **plain(logs)})
        # The last one now: at the end of `fit` some optimizers put other weights into the model.
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        better = self.monitor is not None and self._is_better
        if self._is_asked() or last or better or self._is_due(self._epoch_saved_at):
            self._save_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        if folder.path_of(self.folder, self.steps) != self._saved:
            self._save_epoch()

    # Saving

    def _is_due(self, before):
        every = max(60.0, 50 * self._writer.seconds) if self.every is None else self.every
        due = time.monotonic() - before >= every
        return bool(backend.agreed(due)) if backend.reads_together() else due

    @property
    def _score(self):
        row = self.rows[-1] if self.rows else {}
        return row.get(self.monitor) if self.monitor else row.get("val_loss", row.get("loss"))

    @property
    def _is_better(self):
        return isinstance(self._score, (int, float)) and self._score < self.best

    def _save_epoch(self):
        better = self._is_better
        self.best = self._score if better else self.best
        self.save(better)
        self._epoch_saved_at = self._saved_at

    def save(self, best: bool = False) -> Any:
        """Take a checkpoint now, between two steps, and begin to write it."""
        path = folder.path_of(self.folder, self.steps)
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "steps": self.steps,
            "history": list(self.rows),
            "best": self.best,
            "monitor": self.monitor,
            "data": self.data,
            "callbacks": [(type(c).__name__, _numbers(c)) for c in self.others],
        }
        if backend.leads() or backend.reads_together():
            self._writer.wait()  # so that no more than one copy of the state is held
            arrays, facts = state.taken(self.model, facts)
        if backend.leads():
            self._writer.begin(lambda: self._write(path, arrays, facts, best))
        self._saved, self._saved_at = path, time.monotonic()
        if self._signal:
            self._writer.wait()
            raise Interrupted(self._signal, path)

    def _write(self, path, arrays, facts, best):
        files.write(path, arrays, facts)
        if best:
            folder.mark_best(path)
        folder.prune(self.folder, self.keep)

    # Being asked to end

    def _is_asked(self):
        """Whether this process or another one of the training was: all end after the same step."""
        self._signal = backend.anywhere(self._heard)
        return bool(self._signal)

    @contextlib.contextmanager
    def signals(self) -> Any:
        """While this runs, Ctrl-C and SIGTERM end the training after the present step."""

        def end(number):
            self._heard = number

        try:
            with interrupts.heard((signal.SIGINT, signal.SIGTERM), ENDING, end):
                yield
        finally:
            self._heard = self._signal = 0


def _numbers(callback):
    """The numbers that a callback keeps beside the arguments it was made with."""
    if isinstance(callback, keras.callbacks.ProgbarLogger):
        return {}  # what it counts is of one call of `fit`
    given = inspect.signature(type(callback).__init__).parameters
    kinds = (bool, int, float, np.number)
    kept = {n: v for n, v in vars(callback).items() if n not in given and isinstance(v, kinds)}
    return plain(kept)


def plain(values: dict) -> dict:
    """What JSON can hold of values by name; numbers of numpy and of tensors as Python's.

    What is no number, such as an array that a callback logs, is left out: it must not cost the
    checkpoint.
    """
    found = {name: _plain(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value):
    if isinstance(value, (bool, int, float, str)):
        return value
    try:
        array = np.asarray(ops.convert_to_numpy(value))
        return array.item() if array.size == 1 and array.dtype.kind in "biuf" else None
    except Exception:  # whatever it is, it is no number
        return None
