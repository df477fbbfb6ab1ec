"""Consistency: a network whose estimate of x0 is one and the same all along a path.

    L = ( √(‖f(x_t, t) − sg f(x_r, r)‖² + c²) − c ) / (σ_t − σ_r),     f the estimate of x0,

with x_t and x_r of one image and one noise, and r a little nearer to the data than t; where r = 0
the target is the image. What was learned at small times is so handed on to large ones: in the end
f is where the path of the probability flow ends, and sampling takes one evaluation or two.

Reference:
    Song et al., Consistency Models (2023); Geng et al., Consistency Models Made Easy (2024,
    arXiv 2406.14548), whose loss and whose gaps these are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keras import ops

from keras_dit import backend
from keras_dit.objectives.base import LogitNormalTimes, Objective, TimeDistribution
from keras_dit.predictions import LearnedVariance
from keras_dit.schedules import Rates
from keras_dit.schedules.base import columns
from keras_dit.serialization import Configurable, register

__all__ = ["Consistency", "TimeGap"]


@register
@dataclass(frozen=True)
class TimeGap(Configurable):
    """How far a time is from the nearer one that it is compared with.

        σ_r = σ_t (1 − n(σ_t) / q^stage),   n(σ) = 1 + k sigmoid(−b σ),   at least 0

    The stage is 1 at first and one more after `every` steps of training, up to `stages`. Without
    `every`, and in an evaluation, it is `stages` at once. The steps are those that the optimizer
    counts, so a run that goes on is at the stage where it was.

    Args:
        q: by how much a stage makes gaps smaller, above 1.
        stages: the last stage.
        every: steps from one stage to the next; None: it is the last from the beginning.
        k: how much larger gaps are at small σ.
        b: from which σ on they are not, 1 / b.

    Example:

    >>> round(float(TimeGap(q=4.0, k=0.0).nearer(0.8, None)), 3)
    0.6

    Reference:
        Geng et al. (2024), section 3.3; their stage is one less.
    """

    q: float = 64.0
    stages: int = 1
    every: int | None = None
    k: float = 8.0
    b: float = 1.0

    def __post_init__(self):
        numbers = 1.0 < self.q < math.inf and 0.0 <= self.k < math.inf and 0.0 <= self.b < math.inf
        steps = isinstance(self.stages, int) and self.stages >= 1
        steps = steps and (self.every is None or (isinstance(self.every, int) and self.every >= 1))
        if not (numbers and steps):
            raise ValueError(
                "q must be above 1, k and b 0 or more, stages an integer of 1 or more and every "
                f"one too or None. Received: {self}"
            )

    def nearer(self, sigma: Any, step: Any) -> Any:
        """σ_r for σ_t.

        Args:
            sigma: float32 (B,).
            step: how many steps training has made, an int32 scalar, or None in an evaluation.
        """
        stage = ops.convert_to_tensor(float(self.stages))
        if step is not None and self.every is not None:
            stage = ops.minimum(ops.cast(1 + step // self.every, "float32"), stage)
        sigma = ops.convert_to_tensor(sigma, "float32")
        larger = 1.0 + self.k * ops.sigmoid(-self.b * sigma)
        return sigma * ops.maximum(1.0 - larger * ops.power(self.q, -stage), 0.0)


@register
@dataclass(frozen=True)
class Consistency(Objective):
    """Tunes a network to give the end of the path from any point of it.

    The network keeps its schedule and its prediction: `keras-dit train --from RUN --method
    consistency` goes on from any flow or EDM network. Then `generate(steps=1)` makes images with
    one evaluation, and `solver=solvers.LCM()` better ones with two or more.

    Args:
        times: how t is drawn.
        gap: how far r is from t.
        c: of the distance, which is a square below c and a length above, of the root mean square.

    Raises:
        ValueError: for a schedule that is a table, or a network that gives the noise.

    Example:

    >>> process = keras_dit.processes.named("consistency")
    >>> batch = Batch(ops.ones((1, 2)), ops.zeros((1, 2)))
    >>> rates = process.schedule(np.array([0.5], "float32"))
    >>> perfect = lambda x_t, rates: (x_t - batch.x0) / rates.sigma  # of the only image there is
    >>> round(float(process.objective.loss(perfect, batch, rates, process)[0]), 4)
    0.0

    Reference:
        Geng et al., Consistency Models Made Easy (2024), algorithm 1.
    """

    times: TimeDistribution = field(default_factory=lambda: LogitNormalTimes(-0.4, 2.0))
    gap: TimeGap = TimeGap()
    c: float = 0.01

    tunes = True

    def __post_init__(self):
        TimeDistribution.checked("times", self.times)
        TimeGap.checked("gap", self.gap)
        if not 0.0 < self.c < math.inf:
            raise ValueError(f"c must be above 0. Received: c={self.c}")

    def check(self, process: Any) -> None:
        if process.schedule.steps is not None:
            raise ValueError(
                "consistency needs a schedule in continuous time, as flow and EDM have one. "
                f"Received: schedule={process.schedule}"
            )
        prediction = process.prediction
        if prediction.needs_signal or isinstance(prediction, LearnedVariance):
            raise ValueError(
                "consistency needs a prediction with an x0 at each time, such as FlowVelocity(). "
                f"Received: prediction={prediction}"
            )

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.times(n, seed)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        schedule = process.schedule

        def end(rates):
            x = batch.noisy(rates)
            return process.prediction.denoised(evaluate(x, rates), x, rates).x0

        sigma = self.gap.nearer(rates.sigma, batch.step)  # of r
        first = sigma <= 0.0  # where r is 0
        asked = schedule(ops.where(first, schedule.least_time, schedule.time_of(sigma)))
        known = backend.without_gradient(end, asked)
        known = ops.where(columns(first, batch.x0), batch.x0, known)
        error = ops.square(end(rates) - known)
        error = ops.mean(error, axis=tuple(range(1, len(error.shape))))
        # √(e + c²) − c, without the difference of two numbers that are nearly equal
        distance = error / (ops.sqrt(error + self.c * self.c) + self.c)
        return distance / (rates.sigma - sigma)
