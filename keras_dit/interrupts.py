"""Ctrl-C and SIGTERM, answered at once even while a backend compiles or computes.

Python runs its handlers in the main thread and between two of its instructions, so not for as long
as a compiler or a step takes. What is written into `signal.set_wakeup_fd` comes at once, to a
thread that waits for it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["heard"]

SOON = 0.3  # seconds in which the main thread answers if it runs Python
AT_ONCE = 1.0  # and in which it ends at a second signal, before the process is ended


@contextlib.contextmanager
def heard(
    numbers: tuple[int, ...], words: str, answer: Callable[[int], None] | None = None
) -> Iterator[None]:
    """While this runs, signals get an answer at once; a second one ends the process.

    Not so outside the main thread, where nobody may listen. A session at a prompt, such as a
    notebook, is not ended.

    Args:
        numbers: of the signals.
        words: what is printed at the first one, unless the main thread soon does what it did
            before.
        answer: number -> None, what the main thread does at the first one; None: what it did
            before. At a second one it does what it did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener(numbers, words, answer)
    try:
        yield
    finally:
        listener.close()


class _Listener:
    def __init__(self, numbers, words, answer):
        self.words, self.answer = words, answer
        self.first, self.second = threading.Event(), threading.Event()  # seen by the main thread
        self.unsaid = threading.Lock()
        self.before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, self.handle)
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        fileno = self.writer.fileno()
        self.wakeup = signal.set_wakeup_fd(fileno, warn_on_full_buffer=False)
        threading.Thread(target=self.listen, daemon=True).start()

    def handle(self, number, frame):
        """In the main thread."""
        if self.answer is not None and not self.first.is_set():
            self.first.set()  # before anything is printed, within which a second one may come
            self.say()
            self.answer(number)
            return
        (self.second if self.first.is_set() else self.first).set()
        before = self.before[number]
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            os._exit(128 + number)

    def listen(self):
        """In a thread of its own."""
        times = 0
        while byte := self.reader.recv(1):
            if byte[0] not in self.before:
                continue
            times += 1
            if times == 1:
                if not self.first.wait(SOON):
                    self.say()
            elif not (self.second.wait(AT_ONCE) or _is_a_prompt()):
                print(f"\nended at once, by signal {byte[0]}", file=sys.stderr, flush=True)
                os._exit(128 + byte[0])
        self.reader.close()

    def say(self):
        """Once, whichever thread comes first."""
        if self.unsaid.acquire(blocking=False):
            print(f"\n{self.words}", file=sys.stderr, flush=True)

    def close(self):
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.writer.close()  # which ends the thread


def _is_a_prompt():
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
