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

from dataclasses import dataclass

from keras_dit.serialization import Configurable, register
from keras_dit.solvers import probability_flow as flow


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

    η = 0 is deterministic, (1) with x0 held fixed; η = 1 is DDPM.

    Reference:
        Song, Meng, Ermon: Denoising Diffusion Implicit Models (2021), equations 12 and 16.
    """

    eta: float = 0.0

    def __post_init__(self):
        _check_fraction("eta", self.eta)

    @property
    def stochastic(self):
        return self.eta > 0

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        if not self.stochastic:
            return flow.follow(x, x0, here, there), state
        fresh = self.eta**2 * flow.fresh(here, there)
        direction = there.sigma / here.sigma * (1.0 - fresh) ** 0.5
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
        _check_fraction("variance_fraction", self.variance_fraction)

    @property
    def stochastic(self):
        return True

    def step(self, denoise, x, here, there, state, noise):
        x0, fraction = denoise(x, here)
        if fraction is None:
            fraction = self.variance_fraction
        return flow.renew(x, x0, here, there, noise * (here.sigma / there.sigma) ** fraction), state


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
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        return flow.leave(y + (flow.time(there) - u) * velocity, there), state


@register
@dataclass(frozen=True)
class EulerAncestral(DDIM):
    """Euler's method to a lower noise level than asked for, and fresh noise up to it.

    k-diffusion's name, derivation and η; the step is that of `DDIM`.

    Reference:
        Crowson, k-diffusion (2022), sample_euler_ancestral.
    """

    eta: float = 1.0


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


@register
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """The probability flow, and with it as much Langevin diffusion as `scale` says.

        dy = (ε − x0) du + w/2 (ε / u) du + √w dW,   w = 2 scale u,   backwards in u

    in the coordinates of `Euler`. Scale 0 is Euler's method; SiT samples with scale 1, its
    "sigma" form of the diffusion.

    Reference:
        Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models (2024), equation 5.
    """

    scale: float = 1.0

    def __post_init__(self):
        if not 0.0 <= self.scale < float("inf"):
            raise ValueError(f"scale must be 0 or more. Received: scale={self.scale}")

    @property
    def stochastic(self):
        return self.scale > 0

    def step(self, denoise, x, here, there, state, noise):
        y, u = flow.enter(x, here)
        velocity = flow.velocity(denoise, y, here)
        du = flow.time(there) - u
        eps = y + (1.0 - u) * velocity  # since y = x0 + u v and v = ε − x0
        end = y + du * (velocity + self.scale * eps)
        if self.stochastic:
            end = end + (-2.0 * self.scale * u * du) ** 0.5 * noise
        return flow.leave(end, there), state


@register
@dataclass(frozen=True)
class LCM(Solver):
    """x_s = α_s x0 + σ_s z: the estimate under noise that is all new.

    For networks distilled to give the end of the trajectory (consistency models); from an
    ordinary one, whose estimate is a mean, it makes smooth pictures of too little variety.

    Reference:
        Song et al., Consistency Models (2023), algorithm 1; Luo et al., Latent Consistency
        Models (2023).
    """

    order = 0  # of a consistency model every step is exact, of another no number of them is

    @property
    def stochastic(self):
        return True

    def step(self, denoise, x, here, there, state, noise):
        return there.alpha * denoise(x, here).x0 + there.sigma * noise, state


@register
@dataclass(frozen=True)
class DPMSolverPP2M(Solver):
    """(1) with x0 as it would be in the middle of the step, from this estimate and the last.

    Reference:
        Lu et al., DPM-Solver++ (2022), algorithm 2.
    """

    order = 2

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        return flow.follow(x, flow.ahead(x0, here, there, state), here, there), (x0, here)


@register
@dataclass(frozen=True)
class DPMSolverPP2MSDE(Solver):
    """The ancestral step with x0 as in `DPMSolverPP2M`.

    Reference:
        Lu et al., DPM-Solver++ (2022), appendix A, SDE-DPM-Solver++(2M).
    """

    order = 2

    @property
    def stochastic(self):
        return True

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        return flow.renew(x, flow.ahead(x0, here, there, state), here, there, noise), (x0, here)


@register
@dataclass(frozen=True)
class DPMSolverPP3M(Solver):
    """(1) with x0 on the parabola in λ through the last three estimates.

    The published program takes half of the second difference, and a first step of first order
    for good; either would leave the whole at second order. Here the first step is corrected as
    soon as there is a second estimate.

    Reference:
        Lu et al., DPM-Solver++ (2022), section 4; Zhang, Chen: Fast Sampling of Diffusion Models
        with Exponential Integrator (2023), equation 15.
    """

    order = 3

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        start, history = state or (x, ())
        if len(history) == 1:
            x = flow.correct(start, x0, here, history)
        history = ((x0, here), *history)[:3]
        return flow.integrate(x, here, there, history), (start, history)


@register
@dataclass(frozen=True)
class UniPC(Solver):
    """Predictor and corrector from the same estimates, one evaluation for both.

    An estimate at the predicted x first corrects that x, by (1) along a polynomial that it is
    itself on, and then predicts the next. This is the variant B₂(h) = 1 − e^{−h}.

    Args:
        order: of the predictor, 1, 2 or 3; the corrector's is one higher.

    Reference:
        Zhao et al., UniPC: A Unified Predictor-Corrector Framework (2023), algorithms 1 and 2.
    """

    order: int = 2

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3. Received: order={self.order!r}")

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        start, history = state or (x, ())
        if history:
            x = flow.correct(start, x0, here, history)
        history = ((x0, here), *history)[: self.order]
        if len(history) == 2:  # what the paper has in place of the integral of a line
            last = history[1]
            return flow.follow(x, flow.ahead(x0, here, there, last), here, there), (x, history)
        return flow.integrate(x, here, there, history), (x, history)


def _check_fraction(name, value):
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1]. Received: {name}={value}")
