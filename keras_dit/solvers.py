"""One step from noisy to less noisy.

A solver sees a denoiser, (x_t, rates) -> `Denoised`, and the rates here (time t) and there
(s < t); it knows neither the network nor its parameterisation. The noise that x holds is

    ε = (x − α_t x0) / σ_t.

σ is above 0 at both ends of a step: a run's last step, to t = 0, is the denoiser itself and is
taken by the sampler. Steps are plain arithmetic, so they run on tensors and numpy arrays alike.
"""

from dataclasses import dataclass

from keras_dit.serialization import Configurable, register


class Solver(Configurable):
    """One step of a sampling run. Subclasses are frozen dataclasses.

    Attributes:
        order: of convergence: the error of a run falls with steps^-order.
        evaluations: how often a step calls the denoiser.
    """

    order = 1
    evaluations = 1

    @property
    def stochastic(self):
        """Whether a step uses noise."""
        return False

    def init(self, x):
        """The state before the first step: whatever `step` carries over, None if nothing."""
        return None

    def step(self, denoise, x, here, there, state, noise):
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


@register
@dataclass(frozen=True)
class DDIM(Solver):
    """x_s = α_s x0 + √(σ_s² − τ²) ε + τ z, with τ = η times the posterior's deviation.

    η = 0 is deterministic, the first-order solver of the probability flow; η = 1 is DDPM.

    Reference:
        Song, Meng, Ermon: Denoising Diffusion Implicit Models (2021), equations 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1]. Received: eta={self.eta}")

    @property
    def stochastic(self):
        return self.eta > 0

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        direction = there.sigma / here.sigma
        if not self.stochastic:
            return there.alpha * x0 + direction * (x - here.alpha * x0), state
        fresh = self.eta**2 * _fresh(here, there)
        direction = direction * (1.0 - fresh) ** 0.5
        deviation = there.sigma * fresh**0.5
        return there.alpha * x0 + direction * (x - here.alpha * x0) + deviation * noise, state


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
        if not 0.0 <= self.variance_fraction <= 1.0:
            raise ValueError(
                "variance_fraction must be in [0, 1]. "
                f"Received: variance_fraction={self.variance_fraction}"
            )

    @property
    def stochastic(self):
        return True

    def step(self, denoise, x, here, there, state, noise):
        x0, fraction = denoise(x, here)
        if fraction is None:
            fraction = self.variance_fraction
        fresh = _fresh(here, there)
        keep = here.alpha / there.alpha * (there.sigma / here.sigma) ** 2
        deviation = there.sigma * fresh**0.5 * (here.sigma / there.sigma) ** fraction
        return keep * x + there.alpha * fresh * x0 + deviation * noise, state


@register
@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method for the probability flow.

    Divided by α + σ every schedule is a rectified flow, y = (1 − u) x0 + u ε with
    u = σ / (α + σ), whose velocity is dy/du = ε − x0. In those coordinates Euler's method and
    the first-order exponential integrator, DDIM at η = 0, are the same step.

    Reference:
        Liu et al., Flow Straight and Fast (2022), equation 1.
    """

    def step(self, denoise, x, here, there, state, noise):
        y, u = _flow(x, here)
        velocity = _velocity(denoise, y, here)
        return (y + (_flow_time(there) - u) * velocity) * (there.alpha + there.sigma), state


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
        y, u = _flow(x, here)
        first = _velocity(denoise, y, here)
        du = _flow_time(there) - u
        second = _velocity(denoise, y + du * first, there)
        return (y + du * 0.5 * (first + second)) * (there.alpha + there.sigma), state


def _fresh(here, there):
    """The share of x's noise variance that the forward process adds from there to here.

    σ_t² times it is the variance of that process, DDPM's β; σ_s² times it is the variance of
    the posterior q(x_s | x_t, x0), Ho et al. (2020), equation 7, for any two times.
    """
    kept = here.alpha / there.alpha * there.sigma / here.sigma
    return (1.0 - kept) * (1.0 + kept)


def _flow_time(rates):
    return rates.sigma / (rates.alpha + rates.sigma)


def _flow(x, rates):
    return x / (rates.alpha + rates.sigma), _flow_time(rates)


def _velocity(denoise, y, rates):
    x0 = denoise(y * (rates.alpha + rates.sigma), rates).x0
    return (y - x0) / _flow_time(rates)
