"""A progress bar that says what it waits for, and whose clock ticks meanwhile."""

import contextlib
import threading
from collections.abc import Iterator

from tqdm.auto import tqdm

__all__ = ["Bar"]


class Bar(tqdm):
    """A bar of tqdm for steps of which the first may take minutes.

    Args:
        first: what is said until the first step is done, such as "compiling"; None: nothing else.
        desc, **settings: as for tqdm.
    """

    def __init__(self, *args, desc: str, first: str | None = None, **settings):
        self._waiting, self._usual = contextlib.ExitStack(), desc
        settings.setdefault("dynamic_ncols", True)
        super().__init__(*args, desc=desc, **settings)
        if first is not None and not self.disable:
            self._waiting.enter_context(self.saying(first))

    @contextlib.contextmanager
    def saying(self, words: str) -> Iterator[None]:
        """While this runs the bar says so, and its clock ticks though nothing moves it on."""
        done = threading.Event()

        def tick():
            while not done.wait(1.0):
                self.refresh()

        self.set_description_str(words)
        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.set_description_str(self._usual)

    def update(self, n: float = 1) -> bool | None:
        """Move it on."""
        self._waiting.close()
        return super().update(n)

    def close(self) -> None:
        """End its line."""
        self._waiting.close()
        super().close()
