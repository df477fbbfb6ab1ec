"""Work that is done beside the training: the writing of one checkpoint at a time."""

import concurrent.futures
import time
from collections.abc import Callable

__all__ = ["Writer"]


class Writer:
    """Does one piece of work at a time in a thread of its own.

    What goes wrong in it is raised by the next call. A program that ends waits for it.

    Attributes:
        seconds: how long the last piece took.

    Example:

    >>> writer, written = Writer(), []
    >>> writer.begin(lambda: written.append(1))
    >>> writer.wait()
    >>> written
    [1]
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._task: concurrent.futures.Future | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Do that, when what was begun before is done."""
        self.wait()
        pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._task = pool.submit(self._timed, work)
        pool.shutdown(wait=False)  # its thread ends with the work

    def look(self) -> None:
        """Raise what went wrong, if what was begun has ended; do not wait for it."""
        if self._task is not None and self._task.done():
            self.wait()

    def wait(self) -> None:
        """Wait for what was begun."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def _timed(self, work):
        start = time.monotonic()
        work()
        self.seconds = time.monotonic() - start
