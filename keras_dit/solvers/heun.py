"""Second order by a second evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras_dit.schedules import Rates
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class Heun(Solver):
    """Heun's second-order method for the probability flow, in the coordinates of `Euler`.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=Heun())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.01)
    True

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion Models (2022), algorithm 1.
    """

    order = 2
    evaluations = 2
    reversible = True

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        y, u = flow.enter(x, here)
        first = flow.velocity(denoise, y, here)
        du = flow.time(there) - u
        second = flow.velocity(denoise, y + du * first, there)
        return flow.leave(y + du * 0.5 * (first + second), there), state


class Half(NamedTuple):
    """Where a step of `Midpoint` began, its velocity there, and whether its half is taken."""

    y: Any
    u: Any
    velocity: Any
    taken: Any


@register
@dataclass(frozen=True)
class Midpoint(Solver):
    """The midpoint method for the probability flow, in the coordinates of `Euler`.

    Two steps of the grid are one of the method: Euler's to the time between, then the whole way
    with the velocity found there. Where that time is not the middle, the first velocity gets the
    weight that keeps the order. After an odd number of steps the last is Euler's.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=Midpoint())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.01)
    True

    Reference:
        Butcher, Numerical Methods for Ordinary Differential Equations (2016), equation 232b.
    """

    order = 2

    def init(self, x: Any) -> Any:
        step = flow.Step.none(x, 1)
        return Half(x, step.rates.t, x, step.history.count)

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        second = state.taken > 0.0
        start = flow.choose(second, state.y, y)
        start_u = flow.choose(second, state.u, u)
        start_velocity = flow.choose(second, state.velocity, velocity)
        du = flow.time(there) - start_u
        share = du / (2.0 * (u - start_u))  # 1 if u is in the middle
        share = flow.choose(second, share, 0.0)
        mean = start_velocity + share * (velocity - start_velocity)
        end = flow.leave(start + du * mean, there)
        return end, Half(y, u, velocity, 1.0 - state.taken)
