"""One command in several processes, each with a device of its own, that share what is to be made.

The process that was started leads. It starts the others with the same arguments, and all go the
same way until there is something to share: pieces of work whose results depend on nothing but
their keys, such as batches of images. Of n processes process i makes the pieces i, i + n, ... The
one that leads gets all results in their order, as if it had made them alone, and it alone writes
and speaks. The others only help: `shared` never returns in them.
"""

import contextlib
import os
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from keras_dit.backend.devices import device_name

__all__ = ["ShareDone", "ShareError", "first", "helping", "helps", "members", "shared", "team"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
HELPER = "KERAS_DIT_HELPER"  # place, how many, port and key: what makes a process one that helps
SECONDS = 5.0  # in which a process that helps may end by itself


class ShareDone(BaseException):
    """This process has done its share: there is nothing for it behind the work that was shared."""


class ShareError(OSError):
    """A process that helped has failed, or is gone."""


class _Helper:
    """This process, where it helps: what it is told, and what it gives."""

    def __init__(self, place, count, port, key):
        self.place, self.count, self.busy = int(place), int(count), False
        self.connection = Client(("127.0.0.1", int(port)), authkey=key.encode())
        self.connection.send((self.place, device_name()))
        self.told: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        """In a thread of its own: whatever this one computes, it ends with the one that leads."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.told.put(self.connection.recv())
        os._exit(1)

    def first(self):
        self.told.get()
        yield

    def shared(self, make, keys):
        yield from ()  # a generator, as the other one
        for key in self.told.get():
            self.send("made", _made(self, make, key))
        raise ShareDone

    def send(self, kind, value):
        """Give the one that leads something; if it is gone there is nothing left to do."""
        with contextlib.suppress(ConnectionError):
            self.connection.send((kind, value))


class _Leader:
    """This process, where it leads: those that help it."""

    def __init__(self, count, module, arguments, visible):
        self.count, self.busy, self.visible = count, False, visible
        self.key = secrets.token_hex(16)
        self.listener = Listener(("127.0.0.1", 0), authkey=self.key.encode())
        self.helpers: dict[int, Connection] = {}
        self.names: dict[int, str] = {}
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.processes = {place: self._started(place, command) for place in range(1, count)}
        threading.Thread(target=self._accept, daemon=True).start()

    def _started(self, place, command):
        told = f"{place}:{self.count}:{self.listener.address[1]}:{self.key}"
        nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        environment = {**os.environ, **_device(place, self.count, self.visible), HELPER: told}
        # In a session of its own: Ctrl-C is for the one that leads.
        return subprocess.Popen(command, env=environment, start_new_session=True, **nowhere)

    def _accept(self):
        """In a thread of its own, since nobody may come."""
        with contextlib.suppress(OSError):  # when it is closed
            while len(self.helpers) < self.count - 1:
                with contextlib.suppress(AuthenticationError, EOFError):
                    connection = self.listener.accept()
                    place, name = connection.recv()
                    self.names[place], self.helpers[place] = name, connection

    def _helper(self, place):
        """The connection to a helper, which may be starting still."""
        process = self.processes[place]
        while place not in self.helpers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                raise self._gone(place)
        if (self.names[place] == "cpu") != (device_name() == "cpu"):
            raise ValueError(f"there are fewer devices. Received: devices={self.count}")
        return self.helpers[place]

    def _gone(self, place):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.processes[place].wait(SECONDS)
        code = self.processes[place].returncode
        how = "is gone" if code is None else f"ended with code {code}"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
        return ShareError(f"process {place + 1} of {self.count} {how}, and this one ends with it")

    def _tell(self, place, words):
        try:
            self._helper(place).send(words)
        except (BrokenPipeError, ConnectionError):
            raise self._heard(place) from None

    def _heard(self, place):
        """What a helper that cannot be told anything has said last."""
        try:
            self._result(place)
        except ShareError as error:
            return error
        return self._gone(place)

    def _result(self, place):
        try:
            kind, value = self._helper(place).recv()
        except (EOFError, ConnectionError):
            raise self._gone(place) from None
        if kind == "failed":
            raise ShareError(f"process {place + 1} of {self.count}: {value}")
        return value

    def first(self):
        yield
        for place in self.processes:
            self._tell(place, "go on")

    def shared(self, make, keys):
        for place in self.processes:
            self._tell(place, keys[place :: self.count])
        for index, key in enumerate(keys):
            place = index % self.count
            yield self._result(place) if place else _made(self, make, key)

    def close(self, failed):
        """End the helpers: at once, where this one has failed."""
        for connection in self.helpers.values():
            connection.close()
        self.listener.close()
        for process in self.processes.values():
            try:
                process.wait(0 if failed else SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_member: Any = None  # this process in its team


@contextlib.contextmanager
def team(
    devices: int, module: str, arguments: Sequence[str], words: Callable[[Exception], str] = str
) -> Iterator[None]:
    """While this runs, so many processes share what is given to `shared`, each with a device.

    GPUs are those of NVIDIA, in the order of CUDA_VISIBLE_DEVICES. Without any each process has
    the processor, and they share its cores.

    Args:
        devices: how many; with 1 this process is alone.
        module, arguments: of the command that this process runs.
        words: what the process that leads says of an error in another one.

    Raises:
        ValueError: if it is known that there are fewer devices; later, if one finds none.
    """
    global _member
    told = os.environ.get(HELPER)
    if told is None and devices == 1:
        yield
        return
    if told is not None:
        _member = _Helper(*told.split(":"))
        try:
            yield
        except Exception as error:
            _member.send("failed", words(error))
            raise
        return
    visible = os.environ.get(VISIBLE)
    os.environ.update(_device(0, devices, visible))
    _member = leader = _Leader(devices, module, arguments, visible)
    failed = True
    try:
        yield
        failed = False
    finally:
        _member = None
        leader.close(failed)
        os.environ.pop(VISIBLE, None)
        os.environ.update({} if visible is None else {VISIBLE: visible})


def _device(place, count, given):
    """The environment in which a process sees its own GPU alone."""
    if given is not None and given.strip() in ("", "-1"):
        return {}
    names = [str(i) for i in range(count)] if given is None else given.split(",")
    if len(names) < count:
        raise ValueError(f"there are {len(names)} devices. Received: devices={count}")
    return {VISIBLE: names[place]}


def _made(member, make, key):
    member.busy = True  # what is shared within a piece of work is not shared again
    try:
        return make(key)
    finally:
        member.busy = False


def shared(make: Callable[[Any], Any], keys: Iterable) -> Iterator[Any]:
    """make(key) for each key in order, made by all processes of the team; alone as `map`.

    Args:
        make: key -> result, arrays or what else can be pickled, which depends on the key alone.
        keys: of the process that leads; what the others have makes no difference.

    Raises:
        ShareError: if another process fails or is killed.
        ShareDone: in a process that helps, when its share is made.
    """
    if _member is None or _member.busy:
        return map(make, keys)
    return _member.shared(make, list(keys))


@contextlib.contextmanager
def first() -> Iterator[None]:
    """The process that leads runs the block before the others do, which may find what it stored."""
    if _member is None:
        yield
        return
    yield from _member.first()


def helping() -> contextlib.AbstractContextManager:
    """A block with work that is shared, behind which a process that helps goes on with the next."""
    return contextlib.suppress(ShareDone)


def helps() -> bool:
    """Whether this process only helps another one, which leads."""
    return isinstance(_member, _Helper)


def members() -> int:
    """How many processes share what is given to `shared` now."""
    return 1 if _member is None or _member.busy else _member.count
