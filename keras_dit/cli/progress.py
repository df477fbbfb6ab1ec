"""What a person sees while something takes long."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import keras
from tqdm.auto import tqdm

from keras_dit.backend import BACKEND

__all__ = ["Stopwatch", "TrainingBar", "ticking"]

# The first step takes minutes on those that write a program for it.
FIRST = {"jax": "compiling", "tensorflow": "compiling"}.get(BACKEND, "first step")
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Stopwatch:
    """Seconds since it was started. A checkpoint leaves it alone: it keeps numbers only."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start


@contextlib.contextmanager
def ticking(bar: tqdm) -> Iterator[None]:
    """While this runs the bar's clock ticks, though nothing moves it on."""
    done = threading.Event()

    def tick():
        while not done.wait(1.0):
            bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class TrainingBar(keras.callbacks.Callback):
    """One bar over all steps of a run: loss, images a second, time left.

    While the first step compiles it says so, and its clock ticks.

    Args:
        batch_size: images in a step.
        place: () -> steps that were done before; None: none were.
    """

    def __init__(self, batch_size: int, place: Callable[[], int] | None = None):
        super().__init__()
        self.batch_size, self.place = batch_size, place or (lambda: 0)
        self.bar = self.since_first = None
        self.first = contextlib.ExitStack()  # while the first step is on its way

    def on_train_begin(self, logs=None):
        total, done = self.params["epochs"] * self.params["steps"], self.place()
        look = {"bar_format": FORMAT, "dynamic_ncols": True, "smoothing": 0}
        self.bar = tqdm(total=total, initial=done, desc="training", **look)
        if done < total:
            self.first.enter_context(self.saying(FIRST))

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if self.since_first is None:
            self.first.close()
            # What the first step took says nothing of the time left.
            self.since_first, self.bar.start_t = Stopwatch(), time.time()
            self.bar.initial = self.bar.n
        elif self.bar.n % 10 == 0 or self.bar.n == self.bar.initial + 1:
            self.bar.set_postfix_str(self._words(logs), refresh=False)

    def _words(self, logs):
        rate = (self.bar.n - self.bar.initial) * self.batch_size / self.since_first.seconds
        words = [f"loss {float(logs['loss']):.4f}", f"{rate:.3g} images/s"]
        skipped = int(logs.get("skipped", 0))
        return ", ".join([*words, f"{skipped} skipped"] if skipped else words)

    @contextlib.contextmanager
    def saying(self, words: str) -> Iterator[None]:
        """While this runs the bar says what is done beside steps, and its clock ticks."""
        self.bar.set_description_str(words)
        try:
            with ticking(self.bar):
                yield
        finally:
            self.bar.set_description_str("training")

    def close(self):
        """End the bar's line."""
        self.first.close()
        if self.bar is not None:
            self.bar.close()

    def on_train_end(self, logs=None):
        self.close()
