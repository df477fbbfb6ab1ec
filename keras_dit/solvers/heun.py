"""Second order by a second evaluation."""

from dataclasses import dataclass

from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class Heun(Solver):
    """Heun's second-order method for the probability flow, in the coordinates of `Euler`.

    Reference:
        Karras et al., Elucidating the Design Space of Diffusion Models (2022), algorithm 1.
    """

    order = 2
    evaluations = 2

    def step(self, denoise, x, here, there, state, noise):
        y, u = flow.enter(x, here)
        first = flow.velocity(denoise, y, here)
        du = flow.time(there) - u
        second = flow.velocity(denoise, y + du * first, there)
        return flow.leave(y + du * 0.5 * (first + second), there), state


@register
@dataclass(frozen=True)
class Midpoint(Solver):
    """The midpoint method for the probability flow, in the coordinates of `Euler`.

    Two steps of the grid are one of the method: Euler's to the time between, then the whole way
    with the velocity found there. Where that time is not the middle, the first velocity gets the
    weight that keeps the order. After an odd number of steps the last is Euler's.

    Reference:
        Butcher, Numerical Methods for Ordinary Differential Equations (2016), equation 232b.
    """

    order = 2

    def step(self, denoise, x, here, there, state, noise):
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        if state is None:
            end = y + (flow.time(there) - u) * velocity
            return flow.leave(end, there), (y, u, velocity)
        start, start_u, start_velocity = state
        du = flow.time(there) - start_u
        share = du / (2.0 * (u - start_u))  # 1 if u is in the middle
        mean = start_velocity + share * (velocity - start_velocity)
        return flow.leave(start + du * mean, there), None
