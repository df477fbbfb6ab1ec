"""Time grids: which times a sampling run visits.

A run goes through t_0 > t_1 > … > t_{n−1} > 0; the last step, to 0, is the denoiser itself. On a
table, times are moved to its steps, k = N t − 1, where that is what the grid is known for; the
others ask for times between them.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit.schedules.base import NoiseSchedule, TimeGrid
from keras_dit.serialization import register


@register
@dataclass(frozen=True)
class UniformGrid(TimeGrid):
    """Times equally far apart from 1 to 0, on a table each at the nearest step.

    There it is what diffusers calls "trailing": a run starts at pure noise whatever the number
    of steps.

    Example:

    >>> UniformGrid()(keras_dit.schedules.RectifiedFlow(), 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Reference:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2024), table 2.
    """

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        return _finish(_at_steps(schedule, _uniform(steps)))


@register
@dataclass(frozen=True)
class LeadingGrid(TimeGrid):
    """Every ⌊N / n⌋-th step of a table from k = offset on: it ends at the data, starts below 1.

    Args:
        offset: what diffusers calls steps_offset.

    Example:

    >>> times = LeadingGrid()(keras_dit.schedules.LinearBeta(), 4)
    >>> [round(1000 * float(t)) - 1 for t in times[:-1]]
    [750, 500, 250, 0]

    Reference:
        Song et al., Denoising Diffusion Implicit Models (2021), appendix D.2.
    """

    offset: int = 0

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        stride = _table_steps(self, schedule) // steps
        return _finish(_times(schedule, np.arange(steps)[::-1] * stride + self.offset))


@register
@dataclass(frozen=True)
class LinspaceGrid(TimeGrid):
    """Steps of a table equally far apart from the last, N − 1, to the first, 0, both included.

    Example:

    >>> times = LinspaceGrid()(keras_dit.schedules.LinearBeta(), 4)
    >>> [round(1000 * float(t)) - 1 for t in times[:-1]]
    [999, 666, 333, 0]

    Reference:
        Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2024), table 2.
    """

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        last = _table_steps(self, schedule) - 1
        return _finish(_times(schedule, np.round(np.linspace(0, last, steps))[::-1]))


@register
@dataclass(frozen=True)
class RespacedGrid(TimeGrid):
    """Steps of a table as DiT's released programs name them.

    Args:
        sections: the table is cut into as many equal parts as there are numbers, and of each
            part that many steps are taken, equally far apart, both ends included: "250", or
            "10,20,30" from the data to the noise. "ddim50" takes the one stride that gives 50.

    Example:

    >>> RespacedGrid("10,20,30").steps
    60
    >>> times = RespacedGrid("ddim4")(keras_dit.schedules.LinearBeta(), 4)
    >>> [round(1000 * float(t)) - 1 for t in times[:-1]]
    [750, 500, 250, 0]

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), section 4.
    """

    sections: str = "250"

    def __post_init__(self):
        counts = self.sections.removeprefix("ddim").split(",")
        if not all(count.isdigit() and int(count) > 0 for count in counts):
            raise ValueError(
                'sections must be like "250", "10,20,30" or "ddim50". '
                f"Received: sections={self.sections!r}"
            )

    @property
    def steps(self) -> int:
        return sum(map(int, self.sections.removeprefix("ddim").split(",")))

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        size = _table_steps(self, schedule)
        taken = self._strided(size) if self.sections.startswith("ddim") else self._cut(size)
        return _finish(_times(schedule, taken[::-1]))

    def _strided(self, size):
        for stride in range(1, size + 1):
            if len(range(0, size, stride)) == self.steps:
                return np.arange(0, size, stride)
        raise ValueError(f"no stride takes {self.steps} of {size} steps. Received: {self}")

    def _cut(self, size):
        counts = [int(count) for count in self.sections.split(",")]
        parts = np.array_split(np.arange(size), len(counts))
        if any(count > len(part) for count, part in zip(counts, parts)):
            raise ValueError(f"a part of {size} steps has too few of them. Received: {self}")
        return np.concatenate([part[0] + _strides(len(part), n) for n, part in zip(counts, parts)])


def _strides(size, count):
    """`count` of the numbers 0 … size − 1, by a running sum in floats, as published models were.

    The sum may end just below a half where the product does not: of 0, 5.21…, 10.42… it is another
    number that is rounded up.
    """
    stride = (size - 1) / max(count - 1, 1)
    return np.array(
        [round(place) for place in itertools.accumulate([0.0] + [stride] * (count - 1))]
    )


@register
@dataclass(frozen=True)
class ShiftedGrid(TimeGrid):
    """t = s u / (1 + (s − 1) u) of uniform u: for s > 1 more of the run is spent in the noise.

    Example:

    >>> times = ShiftedGrid(3.0)(keras_dit.schedules.RectifiedFlow(), 4)
    >>> [round(float(t), 2) for t in times]
    [1.0, 0.9, 0.75, 0.5, 0.0]

    Reference:
        Esser et al., Scaling Rectified Flow Transformers (2024), equation 23.
    """

    shift: float = 3.0

    def __post_init__(self):
        if not 0.0 < self.shift < float("inf"):
            raise ValueError(f"shift must be above 0. Received: shift={self.shift}")

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        u = _uniform(steps)
        return _finish(self.shift * u / (1.0 + (self.shift - 1.0) * u))


@register
@dataclass(frozen=True)
class LogSNRGrid(TimeGrid):
    """Uniform in λ = log(α / σ), from t = 1 to the schedule's least time.

    Where t = 1 has no signal, λ = −∞ gives way to that of t = 1 − the least time, and the run
    still starts at 1.

    Example:

    >>> times = LogSNRGrid()(keras_dit.schedules.RectifiedFlow(), 4)
    >>> [round(float(t), 3) for t in times]
    [1.0, 0.909, 0.091, 0.001, 0.0]

    Reference:
        Lu et al., DPM-Solver (2022), section 3.3.
    """

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        least, most = _noise_levels(schedule)
        return _through(schedule, np.geomspace(most, least, steps))


@register
@dataclass(frozen=True)
class KarrasGrid(TimeGrid):
    """(σ / α)^(1/ρ) equally far apart, between the same ends as those of `LogSNRGrid`.

    Example:

    >>> edm = keras_dit.schedules.EDM()
    >>> [round(float(edm(t).sigma), 2) for t in KarrasGrid()(edm, 4)]
    [80.0, 9.72, 0.47, 0.0, 0.0]

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion Models (2022), equation 5.
    """

    rho: float = 7.0

    def __post_init__(self):
        if not 0.0 < self.rho < float("inf"):
            raise ValueError(f"rho must be above 0. Received: rho={self.rho}")

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        least, most = (level ** (1.0 / self.rho) for level in _noise_levels(schedule))
        return _through(schedule, np.linspace(most, least, steps) ** self.rho)


@register
@dataclass(frozen=True)
class ArrayGrid(TimeGrid):
    """The times of one's choice.

    Args:
        times: falling, in (0, 1]; the 0 at the end may be left out.

    Example:

    >>> ArrayGrid((1.0, 0.5)).steps
    2
    """

    times: tuple

    def __post_init__(self):
        times = tuple(float(t) for t in np.asarray(self.times).reshape(-1))
        times = times[:-1] if times and times[-1] == 0 else times
        if not times or not all(a > b for a, b in zip((*times, 0.0), (*times[1:], 0.0, -1.0))):
            raise ValueError(f"times must fall, from at most 1 to 0. Received: times={times}")
        if times[0] > 1:
            raise ValueError(f"times must fall, from at most 1 to 0. Received: times={times}")
        object.__setattr__(self, "times", times)

    @property
    def steps(self) -> int:
        return len(self.times)

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        return _finish(self.times)


def _uniform(steps):
    return np.linspace(1.0, 0.0, steps + 1)[:-1]


def _finish(times):
    return np.append(times, 0.0).astype("float32")


def _table_steps(grid, schedule):
    if schedule.steps is None:
        raise ValueError(f"{grid} needs a schedule with a table. Received: schedule={schedule}")
    return schedule.steps


def _times(schedule, k):
    return (k + 1.0) / schedule.steps


def _at_steps(schedule, times):
    if schedule.steps is None:
        return times
    return np.maximum(np.round(times * schedule.steps), 1.0) / schedule.steps


def _noise_levels(schedule):
    """σ / α at the least time, and at 1 or, where that is infinite, just before."""
    times = np.array([schedule.least_time, 1.0 - schedule.least_time, 1.0])
    alpha, sigma = (ops.convert_to_numpy(x).astype("float64") for x in schedule(times)[1:])
    last = 2 if alpha[2] > 0 else 1
    return sigma[0] / alpha[0], sigma[last] / alpha[last]


def _through(schedule, levels):
    """The times at which σ / α has these values, by bisection; the first is 1."""
    low, high = np.zeros(len(levels)), np.ones(len(levels))
    for _ in range(40):
        middle = (low + high) / 2
        _, alpha, sigma = (ops.convert_to_numpy(x).astype("float64") for x in schedule(middle))
        below = sigma < levels * alpha
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return _finish(np.append(1.0, high[1:]))
