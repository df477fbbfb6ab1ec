"""Euler's method, without and with noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dit.schedules import Rates
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method for the probability flow.

    Divided by α + σ every schedule is a rectified flow, y = (1 − u) x0 + u ε with
    u = σ / (α + σ), whose velocity is dy/du = ε − x0. In those coordinates Euler's method and
    the first-order exponential integrator, DDIM at η = 0, are the same step.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=100, solver=Euler())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.03)
    True

    Reference:
        Liu et al., Flow Straight and Fast (2022), equation 1.
    """

    reversible = True

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        return flow.leave(y + (flow.time(there) - u) * velocity, there), state


@register
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """The probability flow, and with it as much Langevin diffusion as `scale` says.

        dy = (ε − x0) du + w/2 (ε / u) du + √w dW,   w = 2 scale u,   backwards in u

    in the coordinates of `Euler`. Scale 0 is Euler's method; SiT samples with scale 1, its
    "sigma" form of the diffusion.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends there
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise = np.random.default_rng(0).normal(size=(2000, 1))
    >>> flow = keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=100, solver=EulerMaruyama())
    >>> bool(abs(np.std(ops.convert_to_numpy(x0)) - 0.5) < 0.05)
    True

    Reference:
        Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models (2024), equation 5.
    """

    scale: float = 1.0

    def __post_init__(self):
        if not 0.0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be 0 or more. Received: scale={self.scale}")

    @property
    def stochastic(self) -> bool:
        return self.scale > 0

    @property
    def reversible(self) -> bool:
        return not self.stochastic

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        du = flow.time(there) - u
        eps = y + (1.0 - u) * velocity  # since y = x0 + u v and v = ε − x0
        end = y + du * (velocity + self.scale * eps)
        if self.stochastic:
            end = end + (-2.0 * self.scale * u * du) ** 0.5 * noise
        return flow.leave(end, there), state
