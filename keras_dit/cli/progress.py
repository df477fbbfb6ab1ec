"""What a person sees while something takes long."""

import time
from collections.abc import Callable

import keras

from keras_dit import backend
from keras_dit.cli.common import counted
from keras_dit.progress import Bar

__all__ = ["Stopwatch", "TrainingBar"]

# The first step takes minutes on those that write a program for it.
FIRST = "compiling" if backend.jit_compile_training() else "first step"
KNOWN, LONG = 5.0, 60.0  # seconds after which a speed is known; of a run that is worth a word
SAID = 0.5  # seconds between two looks at the loss, for which the next step waits
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


class TrainingBar(keras.callbacks.Callback):
    """One bar over all steps of a run: loss, images a second, time left.

    While the first step compiles it says so, and its clock ticks. As soon as the speed is known, it
    says once how long a run takes that is no matter of a minute.

    Args:
        batch_size: images in a step.
        place: () -> steps that were done before; None: none were.
    """

    def __init__(self, batch_size: int, place: Callable[[], int] | None = None):
        super().__init__()
        self.batch_size, self.place = batch_size, place or (lambda: 0)
        self.bar = self.since_first = self.said = None
        self.foretold = False

    def on_train_begin(self, logs=None):
        total, done = self.params["epochs"] * self.params["steps"], self.place()
        look = {"desc": "training", "bar_format": FORMAT, "smoothing": 0}
        first = FIRST if done < total else None
        self.bar = Bar(total=total, initial=done, first=first, **look)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if self.since_first is None:
            logs.get("loss")  # it is there when the step has ended
            # What the first step took says nothing of the time left.
            self.since_first, self.bar.initial = Stopwatch(), self.bar.n
            # Of one that was last shown before its start tqdm thinks that it never was.
            self.bar.start_t = self.bar.last_print_t = time.time()
        elif self.said is None or self.said.seconds > SAID:
            self.bar.set_postfix_str(self._words(logs), refresh=False)
            self.said = Stopwatch()
        if not self.foretold and self.since_first.seconds > KNOWN:
            self._foretell()

    def _foretell(self):
        self.foretold = True
        step = self.since_first.seconds / (self.bar.n - self.bar.initial)
        left = step * (self.bar.total - self.bar.n)
        if left > LONG:
            self.bar.write(
                f"a step takes {_seconds(step)}: {_duration(left)} from here, as it looks"
            )

    def _words(self, logs):
        loss = float(logs["loss"])  # first: it is there when the step is
        rate = (self.bar.n - self.bar.initial) * self.batch_size / self.since_first.seconds
        speed = f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"
        words = [f"loss {loss:.4f}", f"{speed} images/s"]
        skipped = int(logs.get("skipped", 0))
        return ", ".join([*words, f"{skipped} skipped"] if skipped else words)

    def close(self):
        """End the bar's line."""
        if self.bar is not None:
            self.bar.close()

    def on_train_end(self, logs=None):
        self.close()


def _seconds(step):
    return f"{step:.1f} s" if step >= 1 else f"{1000 * step:.0f} ms"


def _duration(seconds):
    """How long, in words."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return counted(max(1, round(seconds / 60)), "minute")
