"""The noise of a run, drawn on the host so that every backend gets the same."""

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import numpy as np

from keras_dit import backend, draws

AHEAD = 2  # draws that wait to be asked for, at most


class HostNoise:
    """Standard normal noise, drawn on the host so that every backend gets the same.

    Each sample has a stream of its own, numpy's Philox keyed by (seed, index): what a sample
    gets depends neither on the batch it is made in nor on the other samples.

    Args:
        seed: integer of 0 or more; or a sequence with one for each sample of the run, and then
            sample i gets what sample 0 gets under seed[i] alone.
        indices: the samples' numbers within the run.
        shape: of one sample.
        stream: 0 for a run's first noise, 1 for that of its steps.

    Example:

    >>> noise = HostNoise(0, [0, 1], (2, 2), stream=1)
    >>> noise.draw().shape
    (2, 2, 2)
    """

    def __init__(self, seed: Any, indices: Any, shape: tuple, stream: int):
        check_seed(seed)
        self.shape = tuple(shape)
        several = np.ndim(seed) > 0
        keys = [(seed[i], 0) if several else (seed, i) for i in indices]
        self.generators = [draws.generator(one, place, stream) for one, place in keys]

    def draw(self) -> Any:
        """The next noise, numpy float32 (len(indices), *shape)."""
        return np.stack([g.standard_normal(self.shape, "float32") for g in self.generators])


class Drawn:
    """Noise that is there, or comes, in its order: what a run asks for as it asks `HostNoise`.

    Args:
        noise: of each draw, (B, ...).

    Example:

    >>> Drawn([np.zeros((1, 2)), np.ones((1, 2))]).draw().tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, noise: Iterable):
        self._noise = iter(noise)

    def draw(self) -> Any:
        """That of the next step."""
        return next(self._noise)


@contextlib.contextmanager
def drawn_ahead(noise: HostNoise, count: int, beside: Any) -> Iterator[Drawn]:
    """While this runs a thread draws noise before it is asked for, so that no step waits for it.

    Args:
        noise: what is drawn from. The numbers are those of its `draw`, in their order.
        count: draws there will be at most; none: no thread is begun.
        beside: a tensor, to whose device they are moved.

    Yields:
        A `Drawn` of tensors.

    Example:

    >>> noise = HostNoise(0, [0, 1], (2, 2), stream=1)
    >>> with drawn_ahead(noise, 3, keras.ops.zeros(())) as drawn:
    ...     tuple(drawn.draw().shape)
    (2, 2, 2)
    """
    if not count:
        yield Drawn(())
        return
    thread = futures.ThreadPoolExecutor(1, "noise")

    def draw():
        return backend.tensor_beside(noise.draw(), beside)

    tasks = (thread.submit(draw) for _ in range(count))
    begun = collections.deque(itertools.islice(tasks, AHEAD))

    def drawn():
        while begun:
            begun.extend(itertools.islice(tasks, 1))
            yield begun.popleft().result()

    try:
        yield Drawn(drawn())
    finally:
        thread.shutdown(cancel_futures=True)


def check_seed(seed: Any, count: int | None = None) -> None:
    """Raise ValueError unless it is a seed, or a sequence of them, `count` where that is given."""
    for one in [seed] if np.ndim(seed) == 0 else seed:
        draws.checked_seed(one)
    if np.ndim(seed) and count is not None and len(seed) != count:
        raise ValueError(f"there are {len(seed)} seeds for {count} samples")


def initial_noise(seed: Any, indices: Any, shape: tuple) -> np.ndarray:
    """The noise that `Diffusion` starts a run from: numpy float32 (len(indices), *shape).

    Example:

    >>> two = initial_noise(0, [0, 1], (8, 8, 1))
    >>> bool(np.all(initial_noise(0, [1], (8, 8, 1))[0] == two[1]))  # whatever it is drawn with
    True
    """
    return HostNoise(seed, indices, shape, stream=0).draw()
