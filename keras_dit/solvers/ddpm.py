"""The ancestral step of DDPM."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dit.schedules import Rates
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver, check_fraction


@register
@dataclass(frozen=True)
class DDPM(Solver):
    """The ancestral step: a draw from q(x_s | x_t, x0), with the variance of one's choice.

    Any two times make a step, so fewer steps than the schedule's are DDPM's respacing. If the
    network learned the variance, that is used; else it lies at `variance_fraction`, in
    logarithms, between the posterior's ("fixed small", 0) and β ("fixed large", 1).

    Reference:
        Ho et al. (2020), equation 7; Nichol, Dhariwal (2021), equation 15.
    """

    variance_fraction: float = 0.0

    def __post_init__(self):
        check_fraction("variance_fraction", self.variance_fraction)

    @property
    def stochastic(self) -> bool:
        return True

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        x0, fraction = denoise(x, here)
        if fraction is None:
            fraction = self.variance_fraction
        return flow.renew(x, x0, here, there, noise * (here.sigma / there.sigma) ** fraction), state
