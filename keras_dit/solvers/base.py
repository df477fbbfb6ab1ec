"""One step from noisy to less noisy.

A solver sees a denoiser, (x_t, rates) -> `Denoised`, and the rates here (time t) and there
(s < t); it knows neither the network nor its parameterisation. The noise that x holds is
ε = (x − α_t x0) / σ_t. Along the probability flow, with λ = log(α / σ) and h = λ_s − λ_t,

    x_s = σ_s / σ_t x_t + α_s ∫₀ʰ e^{r − h} x0(λ_t + r) dr                                  (1)

(Lu et al., DPM-Solver++, 2022, proposition 4.1), and solvers differ in how they guess x0 on the
way. A run's first time may have no signal, λ = −∞: an estimate infinitely far back then has no
weight. σ is above 0 at both ends of a step, since the last one, to t = 0, is the denoiser itself
and taken by the sampler. Steps are plain arithmetic, so they run on tensors and numpy arrays.
"""

from collections.abc import Callable
from typing import Any

from keras_dit.schedules import Rates
from keras_dit.serialization import Configurable


class Solver(Configurable):
    """One step of a sampling run. Subclasses are frozen dataclasses.

    Attributes:
        order: of convergence: the error of a run falls with steps^-order.
        evaluations: how often a step calls the denoiser.

    Example:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Noisier(Solver):  # DDIM that leaves a little more of the noise
    ...     def step(self, denoise, x, here, there, state, noise):
    ...         x0 = denoise(x, here).x0
    ...         kept = (x - here.alpha * x0) / here.sigma
    ...         return there.alpha * x0 + there.sigma * kept * 1.01, state
    >>> Noisier().order, Noisier().stochastic
    (1, False)
    """

    example = "solvers.DDIM()"
    order = 1
    evaluations = 1

    @property
    def reversible(self) -> bool:
        """Whether a run can go from data to noise, too: without noise and without a state."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether a step uses noise."""
        return False

    def init(self, x: Any) -> Any:
        """The state before the first step, None if there is none.

        It has the structure, shapes and dtypes of what `step` returns, so that one compiled step
        serves for the whole run.
        """
        return None

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        """One step.

        Args:
            denoise: (x_t, rates) -> `Denoised`.
            x: the samples at time `here.t`, (B, ...).
            here, there: `Rates` of scalars, `there` the less noisy.
            state: what the last step returned.
            noise: N(0, I) of the shape of x if the solver is stochastic, else None.

        Returns:
            The samples at time `there.t` and the new state.
        """
        raise NotImplementedError


def check_fraction(name: str, value: Any) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1]. Received: {name}={value}")
