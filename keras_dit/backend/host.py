"""What a step has from the host, and how torch's does not wait for its device to give it.

Python starts the operations of torch on a GPU and goes on, until it asks for a number of a tensor,
or until it sends one: memory that may be paged is copied once all before has been computed. Keras
does both in a step, for each number that is written in one and for each draw. JAX and TensorFlow,
of whose step there is one program, do neither.
"""

import collections
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    from torch.overrides import TorchFunctionMode

__all__ = ["Pace", "SeedGenerator", "as_they_come", "device", "sent", "without_waits"]


def _on_host():
    return keras.device("cpu") if BACKEND == "torch" else contextlib.nullcontext()


class SeedGenerator(keras.random.SeedGenerator):
    """Keras's. On torch its state is on the host, which has to know it to draw.

    Example:
        >>> seed = SeedGenerator(0)
        >>> tuple(keras.random.normal((2, 3), seed=seed).shape)
        (2, 3)
    """

    def __init__(self, seed: int | None = None, **kwargs: Any):
        with _on_host():
            super().__init__(seed, **kwargs)

    def next(self, ordered: bool = True) -> Any:
        with _on_host():
            return super().next(ordered)


ALONE = ("cuda",)  # kinds of devices that copy by themselves from memory that stays where it is


def pinned(tensor: Any) -> Any:
    """A tensor of the host in memory that stays where it is."""
    return tensor.pin_memory()


def sent(arrays: Any, device: Any) -> Any:
    """Arrays of the host on torch's device, without a wait for it.

    Args:
        arrays: a nest of numpy arrays and tensors; a tensor that is on another device stays there.
        device: a `torch.device`.
    """

    def move(array):
        tensor = torch.as_tensor(array) if isinstance(array, np.ndarray) else array
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
            return array
        if device.type not in ALONE:
            return tensor.to(device)
        return pinned(tensor).to(device, non_blocking=True)

    return arrays if device.type == "cpu" else tree.map_structure(move, arrays)


def device() -> Any:
    """The `torch.device` that Keras computes on in this thread."""
    return ops.empty(()).device


def without_waits() -> contextlib.AbstractContextManager:
    """A context in which what Keras takes from the host for torch's device is sent without a wait.

    Numbers are written there by the device itself. Nothing is done on a CPU, which shares the
    host's memory, on other devices than Nvidia's and AMD's, and on other backends.
    """
    if BACKEND != "torch" or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    if _here.pauses or _here.sends is not None or device().type not in ALONE:
        return contextlib.nullcontext()
    return _entered()


class Pace:
    """How far Python may be ahead of a device, which it does not wait for.

    It is ahead so that the device finds its next step when it has done one. It is not far ahead,
    so that a training that is asked to end does, and no more batches wait than are needed.

    Args:
        ahead: steps that are begun while one runs; None: two, of a GPU or a TPU. A CPU computes
            with what Python runs on, and gains nothing.
    """

    def __init__(self, ahead: int | None = None):
        self.ahead = ahead
        self._begun: collections.deque = collections.deque()

    def step(self, results: Any) -> None:
        """Wait until no more steps are under way than may be, of which this is the last.

        Args:
            results: a nest of tensors that the step gives. TensorFlow waits as it likes.
        """
        if self.ahead is None:
            self.ahead = 0 if _computes_here() else 2
        if BACKEND == "jax":
            self._begun.append(results)
        elif BACKEND == "torch" and torch.cuda.is_available():
            self._begun.append(torch.cuda.current_stream().record_event())
        if len(self._begun) > self.ahead:
            first = self._begun.popleft()
            first.synchronize() if BACKEND == "torch" else jax.block_until_ready(first)


def _computes_here():
    return BACKEND == "jax" and jax.default_backend() == "cpu"


class _Here(threading.local):
    sends: Any = None  # what stands in for Keras's way, in this thread
    pauses = False


_here = _Here()


@contextlib.contextmanager
def _entered():
    _here.sends = _Sends()
    try:
        with _here.sends:
            yield
    finally:
        _here.sends = None


@contextlib.contextmanager
def as_they_come() -> Iterator[None]:
    """While this runs nothing is sent otherwise than Keras does.

    torch.compile would look into what stands in for it, and a record has no need of it.
    """
    before, _here.pauses = _here.pauses, True
    sends, _here.sends = _here.sends, None
    if sends is not None:
        sends.__exit__(None, None, None)
    try:
        yield
    finally:
        if sends is not None:
            sends.__enter__()
        _here.sends, _here.pauses = sends, before


if BACKEND == "torch":

    class _Sends(TorchFunctionMode):
        """Stands in for `torch.as_tensor`, by which Keras makes a tensor of what is none."""

        def __torch_function__(self, function, types, args=(), kwargs=None):
            made = _made if function is torch.as_tensor else function
            return made(*args, **(kwargs or {}))


def _made(data, dtype=None, device=None):
    device = None if device is None else torch.device(device)
    if device is None or device.type not in ALONE or isinstance(data, torch.Tensor):
        return torch.as_tensor(data, dtype=dtype, device=device)
    if isinstance(data, (bool, int, float)) and dtype is not None:
        return torch.full((), data, dtype=dtype, device=device)
    return sent(torch.as_tensor(data, dtype=dtype), device)
