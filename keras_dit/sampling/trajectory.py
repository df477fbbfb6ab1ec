"""A run, kept step by step."""

from typing import Any

import numpy as np


class Trajectory:
    """A callback that keeps every step of a run.

    Attributes:
        t: the times, a list of n floats.
        x_t, x0: the samples and their estimates at those times, numpy (n, N, ...), of all
            batches together.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4)
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> kept = Trajectory()
    >>> schedule, noise = keras_dit.schedules.RectifiedFlow(), np.ones((2, 3), "float32")
    >>> x0 = keras_dit.sampler.sample(denoise, noise, schedule, steps=4, callback=kept)
    >>> kept.t, kept.x_t.shape
    ([1.0, 0.75, 0.5, 0.25], (4, 2, 3))
    """

    def __init__(self):
        self.t, self._steps = [], []

    def __call__(self, step: int, t: Any, x_t: Any, x0: Any) -> Any:
        if step == len(self._steps):
            self.t.append(t)
            self._steps.append([])
        self._steps[step].append((x_t, x0))

    @property
    def x_t(self) -> np.ndarray:
        return self._join(0)

    @property
    def x0(self) -> np.ndarray:
        return self._join(1)

    def _join(self, part):
        whole = min(map(len, self._steps))  # batches that were not interrupted
        steps = [[batch[part] for batch in batches[:whole]] for batches in self._steps]
        return np.stack([np.concatenate(batches) for batches in steps])
