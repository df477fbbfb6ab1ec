"""What will be asked for next, prepared while what was asked for is in use."""

import concurrent.futures
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Ahead"]


class Ahead:
    """Calls a pure function for the places that come next, in a thread of its own.

    Nothing is prepared before two places were asked for in a row, so that who takes single ones
    pays for no others. What goes wrong is raised when its place is asked for.

    Args:
        make: place -> value, the same whenever it is called.
        following: place -> the one that comes after it, or None if that is not known.
        count: how many are prepared at most; each is held in memory until it is asked for.

    Call:
        place -> value.

    Example:

    >>> squares = Ahead(lambda place: place**2, lambda place: place + 1)
    >>> [squares(place) for place in (4, 5, 6, 2)]
    [16, 25, 36, 4]
    """

    def __init__(self, make: Callable, following: Callable, count: int = 2):
        self.make, self.following, self.count = make, following, count
        self._next: Hashable = None  # what is asked for if it goes on in a row
        self._begun: dict[Hashable, concurrent.futures.Future] = {}
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None

    def __call__(self, place: Hashable) -> Any:
        in_a_row, self._next = place == self._next, self.following(place)
        task = self._begun.pop(place, None)
        if not in_a_row:
            self._forget()
        if in_a_row:
            self._begin(place)
        return self.make(place) if task is None else task.result()

    def __getstate__(self):
        """A copy prepares for itself."""
        return {**vars(self), "_next": None, "_begun": {}, "_thread": None}

    def _begin(self, place):
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "ahead")
        for _ in range(self.count):
            place = self.following(place)
            if place is None:
                return
            if place not in self._begun:
                self._begun[place] = self._thread.submit(self.make, place)

    def _forget(self):
        for task in self._begun.values():
            task.cancel()
        self._begun.clear()
