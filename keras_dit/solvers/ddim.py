"""Denoising Diffusion Implicit Models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_dit.schedules import Rates, Step
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver, check_fraction


@register
@dataclass(frozen=True)
class DDIM(Solver):
    """x_s = α_s x0 + √(σ_s² − τ²) ε + τ z, with τ = η times the posterior's deviation.

    η = 0 is deterministic, (1) with x0 held fixed; η = 1 is DDPM. To a network that knows average
    velocities (`objectives.MeanFlow`) it says where the step ends, which is then exact.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=100, solver=DDIM())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.03)
    True

    Reference:
        Song, Meng, Ermon: Denoising Diffusion Implicit Models (2021), equations 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self):
        check_fraction("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def reversible(self) -> bool:
        return not self.stochastic

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        if not self.stochastic:
            x0 = denoise(x, Step(*here, until=there.t)).x0
            return flow.follow(x, x0, here, there), state
        x0 = denoise(x, here).x0
        fresh = self.eta**2 * flow.fresh(here, there)
        direction = there.sigma / here.sigma * (1.0 - fresh) ** 0.5
        deviation = there.sigma * fresh**0.5
        return there.alpha * x0 + direction * (x - here.alpha * x0) + deviation * noise, state


def EulerAncestral(eta: float = 1.0) -> DDIM:  # noqa: N802 (it stands among classes)
    """Euler's method to a lower noise level than asked for, and fresh noise up to it.

    k-diffusion's name and η for what is the step of `DDIM`.

    Example:

    >>> EulerAncestral(0.5)
    DDIM(eta=0.5)

    Reference:
        Crowson, k-diffusion (2022), sample_euler_ancestral.
    """
    return DDIM(eta)


# What 0.1.0 saved under that name, then a class.
keras.saving.get_custom_objects()["keras_dit>EulerAncestral"] = DDIM
