"""The step of a consistency model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dit.schedules import Rates, Step
from keras_dit.serialization import register
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class LCM(Solver):
    """x_s = α_s x0 + σ_s z: the estimate under noise that is all new.

    For networks distilled to give the end of the trajectory (consistency models); from an
    ordinary one, whose estimate is a mean, it makes smooth images of too little variety.

    Example:

    >>> # diffusion.generate(labels=[3, 7], steps=4, solver=LCM())
    >>> LCM().stochastic
    True

    Reference:
        Song et al., Consistency Models (2023), algorithm 1; Luo et al., Latent Consistency
        Models (2023).
    """

    order = 0  # of a consistency model every step is exact, of another no number of them is

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        x0 = denoise(x, Step(*here, until=0.0 * here.t)).x0  # the end of the trajectory
        return there.alpha * x0 + there.sigma * noise, state
