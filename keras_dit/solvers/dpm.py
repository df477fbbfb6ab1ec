"""DPM-Solver++: the exponential integrator with the estimates of earlier steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dit.schedules import Rates
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class DPMSolverPP2M(Solver):
    """(1) with x0 as it would be in the middle of the step, from this estimate and the last.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=DPMSolverPP2M())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.01)
    True

    Reference:
        Lu et al., DPM-Solver++ (2022), algorithm 2.
    """

    order = 2

    def init(self, x: Any) -> Any:
        return flow.History.empty(x, 2)

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        history = state.add(denoise(x, here).x0, here)
        return flow.predict(x, here, there, history), history


@register
@dataclass(frozen=True)
class DPMSolverPP2MSDE(Solver):
    """The ancestral step with x0 as in `DPMSolverPP2M`.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends there
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise = np.random.default_rng(0).normal(size=(2000, 1))
    >>> flow = keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=DPMSolverPP2MSDE())
    >>> bool(abs(np.std(ops.convert_to_numpy(x0)) - 0.5) < 0.05)
    True

    Reference:
        Lu et al., DPM-Solver++ (2022), appendix A, SDE-DPM-Solver++(2M).
    """

    order = 2

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, x: Any) -> Any:
        return flow.History.empty(x, 2)

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        history = state.add(denoise(x, here).x0, here)
        return flow.renew(x, flow.ahead(history, there), here, there, noise), history


@register
@dataclass(frozen=True)
class DPMSolverPP3M(Solver):
    """(1) with x0 on the parabola in λ through the last three estimates.

    The published program takes half of the second difference, and a first step of first order
    for good; either would leave the whole at second order. Here the first step is corrected as
    soon as there is a second estimate.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=DPMSolverPP3M())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.01)
    True

    Reference:
        Lu et al., DPM-Solver++ (2022), section 4; Zhang, Chen: Fast Sampling of Diffusion Models
        with Exponential Integrator (2023), equation 15.
    """

    order = 3

    def init(self, x: Any) -> Any:
        return flow.Step.none(x, 3)

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        x0 = denoise(x, here).x0
        x = flow.correct(x, x0, here, state, state.history.count == 1.0)
        history = state.history.add(x0, here)
        return flow.predict(x, here, there, history), flow.Step(x, here, history)
