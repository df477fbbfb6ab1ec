"""Average velocities: a network that knows where a whole step ends, not only which way it begins.

On the straight path x_t = (1 − t) x0 + t ε with the velocity v, a network gives for r ≤ t

    u(x_t, r, t) = 1/(t − r) ∫_r^t v(x_τ, τ) dτ,   so that   x_r = x_t − (t − r) u(x_t, r, t)

is a step of any length, exact. Differentiated by t along the path this is

    u + (t − r) du/dt = v(x_t, t),   du/dt = ∂_x u · v + ∂_t u                              (1)

which asks for no integral. At r = t it is flow matching. The left side is regressed on ε − x0, with
the derivative held fixed (improved MeanFlow, iMF); to hold u's part of it and ε − x0 together fixed
as u's target instead (MeanFlow) has the same gradient.

Reference:
    Geng et al., Mean Flows for One-step Generative Modeling (2025), equations 4 to 11; Geng et al.,
    Improved Mean Flows: On the Challenges of Fastforward Generative Models (2025), equation 9.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops, tree

from keras_dit import backend
from keras_dit.objectives.base import LogitNormalTimes, Objective, TimeDistribution
from keras_dit.schedules import Rates, RectifiedFlow, ReversedFlow, Step
from keras_dit.schedules.base import columns
from keras_dit.serialization import Configurable, register

__all__ = [
    "AdaptiveWeight",
    "BackwardDifference",
    "ForwardDerivative",
    "MeanFlow",
    "OwnVelocity",
    "RandomGuidance",
    "SampleVelocity",
]


class Direction(Configurable):
    """The velocity v along which (1) differentiates. Subclasses are frozen dataclasses."""

    example = "objectives.OwnVelocity()"

    def __call__(self, own: Callable, target: Any) -> Any:
        """The velocity, (B, ...): of the network, own(), or of the sample, the target of (1)."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class OwnVelocity(Direction):
    """The network's own velocity, u(x_t, t, t): that of all images that x_t may be, as (1) means.

    Example:

    >>> OwnVelocity()(lambda: "own", "of the sample")
    'own'

    Reference:
        Geng et al., Improved Mean Flows (2025), section 4.1.
    """

    def __call__(self, own: Callable, target: Any) -> Any:
        return own()


@register
@dataclass(frozen=True)
class SampleVelocity(Direction):
    """ε − x0 of the sample, which is right on average: MeanFlow as it was published first.

    Example:

    >>> SampleVelocity()(lambda: "own", "of the sample")
    'of the sample'

    Reference:
        Geng et al., Mean Flows for One-step Generative Modeling (2025), equation 10.
    """

    def __call__(self, own: Callable, target: Any) -> Any:
        return target


class Slope(Configurable):
    """How the second term of (1) is had. Subclasses are frozen dataclasses."""

    example = "objectives.ForwardDerivative()"

    def __call__(self, u: Callable, x_t: Any, t: Any, r: Any, v: Any) -> tuple:
        """u and (t − r) du/dt.

        Args:
            u: (x_t, t) -> the average velocity from there to r, (B, ...).
            x_t: (B, ...).
            t, r: (B,).
            v: the velocity dx_t/dt, (B, ...).

        Returns:
            Two tensors (B, ...).
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class ForwardDerivative(Slope):
    """The derivative itself, by one pass in forward mode beside that of the network.

    Example:

    >>> x, t = ops.ones((1, 2)), ops.ones((1,))
    >>> _, slope = ForwardDerivative()(lambda x, t: 3.0 * x, x, t, 0.5 * t, 2.0 * x)
    >>> float(slope[0, 0])  # (1 − 0.5) · 3 · 2
    3.0
    """

    def __call__(self, u: Callable, x_t: Any, t: Any, r: Any, v: Any) -> tuple:
        value, slope = backend.forward_derivative(u, (x_t, t), (v, ops.ones_like(t)))
        return value, columns(t - r, x_t) * slope


@register
@dataclass(frozen=True)
class BackwardDifference(Slope):
    """The difference to a point a little further along the path, without a derivative.

        (t − r) du/dt ≈ (l − r) (u(x_t, r, t) − u(x_l, r, l)) / (t − l),   l = t − share (t − r)

    It runs where a network has no derivative in forward mode. With share -> 0 it is MeanFlow's
    term, with 1 it is 0, which leaves flow matching on all pairs; 1/2 is near to shortcut models.
    In half precision small differences are lost: there take `ForwardDerivative`.

    Args:
        share: of the step, in (0, 1].

    Example:

    >>> x, t = ops.ones((1, 2)), ops.ones((1,))
    >>> _, slope = BackwardDifference(1.0)(lambda x, t: 3.0 * x, x, t, 0.5 * t, 2.0 * x)
    >>> float(slope[0, 0])
    0.0

    Reference:
        SoFlow: Solution Flow Models for One-Step Generative Modeling (2025, arXiv 2512.15657);
        AlphaFlow: Understanding and Improving MeanFlow Models (2025, arXiv 2510.20771).
    """

    share: float = 0.1

    def __post_init__(self):
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must be in (0, 1]. Received: share={self.share}")

    def __call__(self, u: Callable, x_t: Any, t: Any, r: Any, v: Any) -> tuple:
        back = self.share * (t - r)
        value = u(x_t, t)
        before = u(x_t - columns(back, x_t) * v, t - back)
        return value, (1.0 - self.share) / self.share * (value - before)


@register
@dataclass(frozen=True)
class RandomGuidance(Configurable):
    """Guidance that is part of the target, with scales that the network is told.

    A network learns the velocity under classifier-free guidance of each scale w in an interval of
    times, and is told w and the interval: when sampling, any may be chosen and costs nothing.

    Args:
        largest: scale of 1 or more; the density of w in [1, largest] is that of w^−power.
        power: 2 draws 1/w uniformly.
        middle: a time. Half of the intervals begin at 0, the others somewhere below it; half of
            them end at 1, the others somewhere above it.

    Raises:
        ValueError: if largest is below 1, or middle is not a time.

    Example:

    >>> guidance = RandomGuidance(largest=4.0)
    >>> [round(float(guidance.scale(np.float32(share))), 2) for share in (0.0, 0.5, 1.0)]
    [1.0, 1.6, 4.0]

    Reference:
        Geng et al., Improved Mean Flows (2025), section 4.2.
    """

    largest: float = 2.0
    power: float = 2.0
    middle: float = 0.5

    def __post_init__(self):
        if not 1.0 <= self.largest < math.inf or not math.isfinite(self.power):
            raise ValueError(f"largest must be 1 or more, power finite. Received: {self}")
        if not 0.0 <= self.middle <= 1.0:
            raise ValueError(f"middle must be in [0, 1]. Received: middle={self.middle}")

    def scale(self, share: Any) -> Any:
        """The scale that so large a share of all is below, shares in [0, 1]."""
        if self.power == 1.0:
            return self.largest**share
        power = 1.0 - self.power
        return (1.0 + share * (self.largest**power - 1.0)) ** (1.0 / power)


@register
@dataclass(frozen=True)
class AdaptiveWeight(Configurable):
    """Each sample's squared error over a power of itself: s / (s + offset)^power, that held fixed.

    With the power 1 nearly a norm of the error, and the logged loss nearly 1: it says nothing then.

    Args:
        power: 0 leaves the squared error.
        offset: added to s, the sum over an image's numbers.

    Example:

    >>> round(float(AdaptiveWeight()(ops.ones((1, 2, 2, 1)))[0]), 3)  # 4 / 4.01
    0.998

    Reference:
        Geng et al., Mean Flows for One-step Generative Modeling (2025), section 4.3.
    """

    power: float = 1.0
    offset: float = 0.01

    def __post_init__(self):
        if not (0.0 <= self.power < math.inf and 0.0 < self.offset < math.inf):
            raise ValueError(f"power must be 0 or more, offset above 0. Received: {self}")

    def __call__(self, square: Any) -> Any:
        total = ops.sum(square, axis=tuple(range(1, len(square.shape))))
        return total / ops.stop_gradient(total + self.offset) ** self.power


@register
@dataclass(frozen=True)
class MeanFlow(Objective):
    """The average velocity of equation (1), for networks that draw in one step or a few.

    A part of the samples learns jumps from t to r < t, the others the velocity at t = r, which is
    flow matching. With its defaults it is improved MeanFlow; with
    `direction=SampleVelocity()` MeanFlow; with `slope=BackwardDifference()` there is no derivative,
    as in SoFlow and α-Flow. The network may give the velocity or the clean image.

    Args:
        times: how t is drawn, and the other end of a jump.
        every: every so-manieth sample of a batch is a jump: 2 is half of them, 1 all.
        whole: share of the jumps that are the whole way, from noise to data.
        direction: the velocity along which is differentiated.
        slope: how the derivative is had.
        guidance: scales that the network learns, where it is told anything; None: none.
        weight: of a sample's error; None: its mean square.

    Raises:
        ValueError: if `every` is not 1 or more, or `whole` is no share.

    Example:

    >>> process = keras_dit.processes.named("meanflow")
    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10,
    ...     **process.network_parts())
    >>> diffusion = keras_dit.Diffusion(network, process=process)
    >>> guidance = keras_dit.guidance.Conditioned(1.5)
    >>> diffusion.generate(labels=[3, 7], steps=1, guidance=guidance).shape
    (2, 8, 8, 1)

    Reference:
        Geng et al., Improved Mean Flows (2025), algorithms 1 and 2; Lu et al., One-step Latent-free
        Image Generation with Pixel Mean Flows (2026), of which it is that the image is given.
    """

    times: TimeDistribution = field(default_factory=LogitNormalTimes)
    every: int = 2
    whole: float = 0.1
    direction: Direction = OwnVelocity()
    slope: Slope = ForwardDerivative()
    guidance: RandomGuidance | None = RandomGuidance()
    weight: AdaptiveWeight | None = None

    def __post_init__(self):
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be an integer of 1 or more. Received: {self.every!r}")
        if not 0.0 <= self.whole <= 1.0:
            raise ValueError(f"whole must be in [0, 1]. Received: whole={self.whole}")
        kinds = {"times": TimeDistribution, "direction": Direction, "slope": Slope}
        for name, kind in kinds.items():
            kind.checked(name, getattr(self, name))

    @property
    def settings(self) -> dict:
        found = {"span": (0.0,)}
        return found if self.guidance is None else {**found, "guidance": (0.0, 0.0, 1.0)}

    def check(self, process: Any) -> Any:
        schedule = process.schedule
        straight = isinstance(schedule, ReversedFlow) or schedule == RectifiedFlow()
        if not straight:
            raise ValueError(
                "MeanFlow needs straight paths: the schedule must be ReversedFlow(), or "
                f"RectifiedFlow() without a shift. Received: schedule={schedule}"
            )

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.times(n, seed)

    def sample_beside(self, n: Any, seed: Any) -> Any:
        """The other end of a jump, and four numbers in [0, 1), float32 (n, 5)."""
        other = ops.expand_dims(self.times(n, seed), -1)
        return ops.concatenate([other, keras.random.uniform((n, 4), seed=seed)], axis=-1)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        def field(x_t, t, until, condition, told):
            """The average velocity between two times."""
            step = Step(*process.schedule(t), until=until)
            output = evaluate(x_t, step, condition=condition, settings=told)
            return process.prediction.velocity(output, x_t, step)

        parts = zip(
            (self._jump, self._stay), _parts((batch._replace(step=None), rates.t), self.every)
        )
        errors = [
            self._error(learn(field, part, t, process))
            for learn, (part, t) in parts
            if part.x0.shape[0] != 0
        ]
        places = _parts(ops.arange(ops.shape(batch.x0)[0]), self.every)[: len(errors)]
        order = ops.argsort(ops.concatenate(places, axis=0))
        return ops.take(ops.concatenate(errors, axis=0), order, axis=0)

    def _jump(self, field, batch, t, process):
        """What is wrong in (1) for samples that go from one time to another, (B, ...)."""
        other, coin, *numbers = ops.unstack(batch.beside, axis=1)
        whole = coin < self.whole
        r = ops.where(whole, 0.0, ops.minimum(t, other))
        t = ops.where(whole, 1.0, ops.maximum(t, other))
        x_t, sample = _sample(batch, t, process)
        extra, told, told_now = self._drawn_guidance(*numbers, t)

        @functools.cache
        def own():
            return ops.stop_gradient(field(x_t, t, t, batch.condition, told_now))

        target = self._guided(sample, own, field, batch, x_t, t, extra, told_now)
        v = self.direction(own, target)
        u, rest = self.slope(
            lambda x, t: field(x, t, r, batch.condition, told), x_t, t, r, ops.stop_gradient(v)
        )
        return u + ops.stop_gradient(rest) - target  # (1)

    def _stay(self, field, batch, t, process):
        """The same for samples whose two times are one: flow matching."""
        x_t, sample = _sample(batch, t, process)
        always = ops.zeros_like(t), ops.ones_like(t)
        extra, _, told = self._drawn_guidance(batch.beside[:, 2], *always, t)
        u = field(x_t, t, t, batch.condition, told)
        return u - self._guided(sample, lambda: u, field, batch, x_t, t, extra, told)

    def _drawn_guidance(self, share, low, high, t):
        """1 − 1/w at t, and what the network is told for a step and for an instant; (B,) each."""
        if self.guidance is None:
            return None, {}, {}
        middle = self.guidance.middle
        low = middle * ops.maximum(2.0 * low - 1.0, 0.0)
        high = middle + (1.0 - middle) * ops.minimum(2.0 * high, 1.0)
        extra = 1.0 - 1.0 / self.guidance.scale(share)
        now = ops.where((t >= low) & (t <= high), extra, 0.0)
        always = ops.zeros_like(t), ops.ones_like(t)
        told = ((extra, low, high), (now, *always))
        return now, *({"guidance": ops.stack(numbers, axis=-1)} for numbers in told)

    def _guided(self, sample, own, field, batch, x_t, t, extra, told):
        """The velocity under guidance, sample + (1 − 1/w) (u_c − u_nothing), held fixed."""
        if extra is None or batch.null is None:
            return sample
        nothing = field(x_t, t, t, batch.null, told)
        return ops.stop_gradient(sample + columns(extra, x_t) * (own() - nothing))

    def _error(self, wrong):
        square = ops.square(wrong)
        if self.weight is not None:
            return self.weight(square)
        return ops.mean(square, axis=tuple(range(1, len(square.shape))))


def _sample(batch, t, process):
    """x_t, and the velocity ε − x0 as the prediction scales it."""
    rates = process.schedule(t)
    return batch.noisy(rates), process.prediction.velocity_target(batch.x0, batch.noise, rates)


def _parts(samples, every):
    """Every so-manieth of a nest of (B, ...), and the others."""

    def others(x):
        return ops.concatenate([x[i::every] for i in range(1, every)], axis=0)

    def of_all(take):
        return tree.map_structure(lambda x: None if x is None else take(x), samples)

    first = of_all(lambda x: x[::every])
    return (first,) if every == 1 else (first, of_all(others))
