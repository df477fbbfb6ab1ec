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

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends there
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise = np.random.default_rng(0).normal(size=(2000, 1))
    >>> flow = keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=100, solver=DDPM())
    >>> bool(abs(np.std(ops.convert_to_numpy(x0)) - 0.5) < 0.05)
    True

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
