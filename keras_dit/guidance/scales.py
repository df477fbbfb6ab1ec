"""Scales of guidance: numbers, and what varies with t."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit.serialization import Configurable, number, register

__all__ = ["AtTimes", "Interval", "Ramp", "checked_scale", "is_one"]


@register
@dataclass(frozen=True)
class Interval(Configurable):
    """The scale where low ≤ t ≤ high, 1 elsewhere: there a step costs one evaluation, not two.

    Example:

    >>> [float(Interval(3.0)(ops.convert_to_tensor(t))) for t in (0.1, 0.5, 0.9)]
    [1.0, 3.0, 1.0]

    Reference:
        Kynkäänniemi et al., Applying Guidance in a Limited Interval Improves Sample and
        Distribution Quality in Diffusion Models (2024), equation 6.
    """

    scale: float = number(3.0)
    low: float = number(0.2)
    high: float = number(0.8)

    def __call__(self, t: Any) -> Any:
        return ops.where((t >= self.low) & (t <= self.high), self.scale, 1.0)


@register
@dataclass(frozen=True)
class Ramp(Configurable):
    """A scale that goes in a straight line from `start` at t = 1 to `end` at t = 0.

    Example:

    >>> [Ramp(start=1.0, end=4.0)(t) for t in (1.0, 0.5, 0.0)]
    [1.0, 2.5, 4.0]
    """

    start: float = number(1.0)
    end: float = number(4.0)

    def __call__(self, t: Any) -> Any:
        return self.end + (self.start - self.end) * t


@dataclass(frozen=True)
class AtTimes:
    """Scales that were worked out on the host, each for its time."""

    times: tuple = number()
    scales: tuple = number()

    def __post_init__(self):
        for name in ("times", "scales"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def __call__(self, t):
        times, scales = (ops.convert_to_tensor(x, "float32") for x in (self.times, self.scales))
        nearest = ops.argmin(ops.abs(ops.expand_dims(t, -1) - times), axis=-1)
        return ops.take(scales, nearest)


def checked_scale(scale):
    """A number, a tuple of them or a function, or ValueError."""
    if callable(scale):
        return scale
    values = np.asarray(scale)
    if values.dtype.kind not in "iuf" or values.ndim > 1 or not np.isfinite(values).all():
        raise ValueError(f"scale must be a finite number or some. Received: scale={scale!r}")
    return tuple(map(float, values)) if values.ndim else float(values)


def is_one(scale):
    return isinstance(scale, (int, float)) and scale == 1
