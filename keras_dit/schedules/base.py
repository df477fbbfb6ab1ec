"""What a noise schedule and a time grid are.

x_t = α(t) x0 + σ(t) ε,   ε ~ N(0, I),   t ∈ [0, 1]: 0 is data, 1 is noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_dit.serialization import Configurable


class Rates(NamedTuple):
    """The time and its two rates, float32 tensors: scalars, or (B,) with one for each sample.

    Example:

    >>> rates = keras_dit.schedules.RectifiedFlow()(0.25)
    >>> float(rates.alpha), float(rates.sigma)
    (0.75, 0.25)
    """

    t: Any
    alpha: Any
    sigma: Any

    @property
    def until(self) -> Any:
        """Of a `Step` the time at which it ends; else None."""
        return None

    def each(self, function: Callable) -> "Rates":
        """The same with `function` of each of its numbers."""
        return Rates(*map(function, self))


class Step(Rates):
    """The rates where a step begins, and the time at which it ends.

    A network that is told how far a step goes (`objectives.MeanFlow`) is told it by these.

    Example:

    >>> rates = keras_dit.schedules.RectifiedFlow()(0.75)
    >>> step = Step(*rates, until=ops.convert_to_tensor(0.25))
    >>> float(step.t), float(step.until), rates.until
    (0.75, 0.25, None)
    """

    _until: Any

    def __new__(cls, t: Any, alpha: Any, sigma: Any, until: Any = None) -> "Step":
        step = super().__new__(cls, t, alpha, sigma)
        step._until = until
        return step

    @property
    def until(self) -> Any:
        return self._until

    def each(self, function: Callable) -> "Step":
        until = None if self.until is None else function(self.until)
        t, alpha, sigma = map(function, self)
        return Step(t, alpha, sigma, until)


def columns(values: Any, x: Any) -> Any:
    """What multiplies or chooses samples x (B, ...): a scalar as it is, (B,) -> (B, 1, ..., 1)."""
    return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1)) if len(values.shape) else values


def broadcast(rates: Rates, x: Any) -> Rates:
    """Rates whose alpha and sigma multiply a tensor of samples.

    Args:
        rates: `Rates` of scalars or of shape (B,).
        x: tensor (B, ...).

    Returns:
        `Rates` of scalars as they came, or of shape (B, 1, ..., 1).

    Example:

    >>> rates = Rates(np.ones(2), np.ones(2), np.zeros(2))
    >>> broadcast(rates, np.zeros((2, 8, 8, 3))).alpha.shape
    (2, 1, 1, 1)
    """
    if len(rates.alpha.shape) == 0:
        return rates
    return Rates(rates.t, columns(rates.alpha, x), columns(rates.sigma, x))


class NoiseSchedule(Configurable):
    """A noise schedule: t -> `Rates`. Subclasses are frozen dataclasses.

    Attributes:
        steps: the number of times it distinguishes; None: time is continuous.
        least_time: above 0, where grids that never reach 0 by themselves take their last look.
        grid: the `TimeGrid` of a run that names none.

    Example:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Circle(NoiseSchedule):  # α² + σ² = 1 at every time
    ...     def __call__(self, t):
    ...         angle = ops.convert_to_tensor(t, "float32") * (np.pi / 2)
    ...         return Rates(t, ops.cos(angle), ops.sin(angle))
    ...
    ...     def timestep(self, t):
    ...         return 1000.0 * t
    >>> round(float(Circle()(0.5).alpha), 3)
    0.707
    """

    example = "schedules.LinearBeta()"
    steps: Any = None
    least_time: Any = 1e-3
    grid: Any = None

    def __call__(self, t: Any) -> Any:
        """The rates at t.

        Args:
            t: times in [0, 1], a float, array or tensor of any shape.

        Returns:
            `Rates` of float32 tensors of that shape.
        """
        raise NotImplementedError

    def timestep(self, t: Any) -> Any:
        """The number that the network is given for time t, float32 of t's shape."""
        raise NotImplementedError

    def time_of(self, sigma: Any) -> Any:
        """The time at which σ has this value, float32 of its shape; of continuous schedules."""
        raise NotImplementedError(f"{self} has no times by their σ")

    def snap(self, t: Any) -> Any:
        """The time that stands for t in training: of a table, the next step up."""
        return ops.convert_to_tensor(t, "float32")


class TimeGrid(Configurable):
    """Which times a sampling run visits. Subclasses are frozen dataclasses.

    Attributes:
        steps: the number of steps of a grid that has one; None: any number.

    Example:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Squared(TimeGrid):  # finer near the data
    ...     def __call__(self, schedule, steps):
    ...         return np.linspace(1.0, 0.0, steps + 1, dtype="float32") ** 2
    >>> Squared()(keras_dit.schedules.RectifiedFlow(), 2).tolist()
    [1.0, 0.25, 0.0]
    """

    example = "schedules.KarrasGrid()"
    steps: Any = None

    def __call__(self, schedule: NoiseSchedule, steps: int) -> Any:
        """The times of a run.

        Args:
            schedule: the `NoiseSchedule` that is sampled.
            steps: number of steps, at least 1.

        Returns:
            numpy float32 (steps + 1,), falling from the noisiest time to 0.
        """
        raise NotImplementedError
