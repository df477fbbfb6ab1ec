"""What training minimises: which times are drawn, and how an error there is weighted.

L = E_{t, x0, ε} [ w(t) ‖ output − target ‖² ],   the mean over an image's numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_dit.gaussian import Chain
from keras_dit.predictions import Denoised, LearnedVariance
from keras_dit.schedules import Rates, TableSchedule, broadcast
from keras_dit.serialization import Configurable, register

__all__ = [
    "Batch",
    "EqualWeighting",
    "ErrorAndDirection",
    "Hybrid",
    "LogitNormalTimes",
    "MeanSquaredError",
    "MinSNR",
    "Objective",
    "TimeDistribution",
    "UniformTimes",
    "VelocityWeighting",
    "Weighting",
]


class TimeDistribution(Configurable):
    """How the times of a training batch are drawn. Subclasses are frozen dataclasses."""

    def __call__(self, n: Any, seed: Any) -> Any:
        """n times in [0, 1], float32 (n,), from a `keras.random.SeedGenerator`."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """Every time equally often.

    Example:

    >>> UniformTimes()(5, keras.random.SeedGenerator(0)).shape
    (5,)
    """

    def __call__(self, n: Any, seed: Any) -> Any:
        return keras.random.uniform((n,), seed=seed, dtype="float32")


@register
@dataclass(frozen=True)
class LogitNormalTimes(TimeDistribution):
    """t = sigmoid(mean + std · N(0, 1)): the middle of the path more often than its ends.

    Example:

    >>> t = ops.convert_to_numpy(LogitNormalTimes()(1000, keras.random.SeedGenerator(0)))
    >>> bool(abs(np.median(t) - 0.5) < 0.05)
    True

    Reference:
        Esser et al., Scaling Rectified Flow Transformers (2024), section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"mean must be finite and std positive. Received: {self}")

    def __call__(self, n: Any, seed: Any) -> Any:
        normal = keras.random.normal((n,), seed=seed, dtype="float32")
        return ops.sigmoid(self.mean + self.std * normal)


class Weighting(Configurable):
    """How much an error at a time counts. Subclasses are frozen dataclasses."""

    def __call__(self, rates: Rates, prediction: Any) -> Any:
        """The factor of the squared error of the output, float32 (B,)."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class EqualWeighting(Weighting):
    """1 at every time: for the noise prediction DDPM's simple loss.

    Example:

    >>> rates = keras_dit.schedules.LinearBeta()(np.array([0.1, 0.9], "float32"))
    >>> ops.convert_to_numpy(EqualWeighting()(rates, keras_dit.predictions.Noise())).tolist()
    [1.0, 1.0]
    """

    def __call__(self, rates: Rates, prediction: Any) -> Any:
        return ops.ones_like(rates.alpha)


@register
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ) as the weight of x0's error, SNR = α²/σ².

    The error of x0 is that of the output times `prediction.sensitivity`, which gives each
    prediction its form: min(SNR, γ)/SNR for the noise, min(SNR, γ)/(SNR + 1) for v.

    Example:

    >>> rates = keras_dit.schedules.RectifiedFlow()(np.array([0.5, 0.75], "float32"))
    >>> weights = MinSNR()(rates, keras_dit.predictions.CleanSample())
    >>> [round(float(weight), 3) for weight in weights]  # (α / σ)²
    [1.0, 0.111]

    Reference:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (2023).
    """

    gamma: float = 5.0

    def __post_init__(self):
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive and finite. Received: gamma={self.gamma}")

    def __call__(self, rates: Rates, prediction: Any) -> Any:
        tiny = 1e-12  # σ is 0 at t = 0, where the weight is γ times a sensitivity of 0
        snr = (rates.alpha / ops.maximum(rates.sigma, tiny)) ** 2
        return ops.minimum(snr, self.gamma) * prediction.sensitivity(rates) ** 2


@register
@dataclass(frozen=True)
class VelocityWeighting(Weighting):
    """1/t² as the weight of x0's error: on a straight line the error of the velocity.

    There the velocity is (x_t − x0) / t, so that its error is that of x0 over t. For a prediction
    of the velocity itself the weight is 1.

    Example:

    >>> rates = keras_dit.schedules.ReversedFlow()(np.array([0.5, 0.25], "float32"))
    >>> ops.convert_to_numpy(VelocityWeighting()(rates, keras_dit.predictions.CleanSample()))
    array([ 4., 16.], dtype=float32)

    Reference:
        Li, He: Back to Basics: Let Denoising Generative Models Denoise (2025), table 1.
    """

    def __call__(self, rates: Rates, prediction: Any) -> Any:
        tiny = 1e-12  # at t = 0 the sensitivity is 0, too
        return ops.square(prediction.sensitivity(rates) / ops.maximum(rates.t, tiny))


class Batch(NamedTuple):
    """What a training step is given.

    Attributes:
        x0: clean samples, float32 (B, ...).
        noise: N(0, I) of the shape of x0.
        condition: what the network is told of them, a nest of tensors (B, ...), or None.
        step: how many steps training has made, an int32 scalar; None in an evaluation.
        null: the condition "nothing said" for each; None where the network is told nothing.
        beside: what `Objective.sample_beside` drew for them, (B, ...), or None.

    Example:

    >>> batch = Batch(ops.ones((1, 2)), ops.zeros((1, 2)))
    >>> float(batch.noisy(keras_dit.schedules.RectifiedFlow()(0.25))[0, 0])
    0.75
    """

    x0: Any
    noise: Any
    condition: Any = None
    step: Any = None
    null: Any = None
    beside: Any = None

    def noisy(self, rates: Rates) -> Any:
        """x_t = α x0 + σ ε, for rates of shape (B,)."""
        factor = broadcast(rates, self.x0)
        return factor.alpha * self.x0 + factor.sigma * self.noise


class Objective(Configurable):
    """A training objective. Subclasses are frozen dataclasses.

    Attributes:
        tunes: whether it is for trained networks, which keep their schedule and prediction.
    """

    example = "objectives.MeanSquaredError()"
    tunes = False

    @property
    def layers(self) -> tuple:
        """Keras layers that the loss looks at beside the network; they are not trained."""
        return ()

    @property
    def settings(self) -> dict:
        """What it sets in the network: by the names of conditions, numbers where it does not.

        A network for it has a `conditions.Setting` for each (`Process.network_parts`).
        """
        return {}

    def check(self, process: Any) -> Any:
        """Raise ValueError if the objective cannot go with the other parts of a `Process`."""

    def check_network(self, network: Any) -> Any:
        """Raise ValueError if it cannot train this network."""

    def check_ready(self) -> Any:
        """Raise ValueError if something is missing that only training needs."""

    def sample_times(self, n: Any, seed: Any) -> Any:
        """n times in [0, 1], float32 (n,), from a `keras.random.SeedGenerator`."""
        raise NotImplementedError

    def sample_beside(self, n: Any, seed: Any) -> Any:
        """Whatever else is random for each sample, float32 (n, ...), or None: `Batch.beside`."""
        return None

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        """The loss of each sample.

        Args:
            evaluate: (x_t, rates) -> what the network gives there, float32 (B, ...), told what
                the batch says; `condition=` tells it something else, and `settings=` are numbers
                by the names of the objective's `settings`. With a `Step` as rates the network is
                told where that ends. It may be called again, at other times and for a part of the
                batch too, and its gradient reaches the network unless it is stopped. What else it
                is given, such as `hidden=` of a `DiTModel`, is for the network.
            batch: a `Batch`.
            rates: `Rates` of shape (B,), at the times that were drawn.
            process: the `Process` that is trained: its schedule and its prediction.

        Returns:
            float32 (B,).
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class MeanSquaredError(Objective):
    """Weighted mean squared error of the network's output.

    Args:
        times: how times are drawn.
        weighting: how much an error counts at each.

    Example:

    >>> process = keras_dit.processes.named("flow")
    >>> batch = Batch(ops.ones((1, 2)), ops.zeros((1, 2)))
    >>> rates = process.schedule(np.array([0.5], "float32"))
    >>> zero = lambda x_t, rates: ops.zeros_like(x_t)
    >>> float(MeanSquaredError().loss(zero, batch, rates, process)[0])  # the velocity is −1, not 0
    1.0
    """

    times: TimeDistribution = UniformTimes()
    weighting: Weighting = EqualWeighting()

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.times(n, seed)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        output = evaluate(batch.noisy(rates), rates)
        return self.error(output, batch, rates, process.prediction)

    def error(self, output: Any, batch: Any, rates: Rates, prediction: Any) -> Any:
        """The weighted mean square of an output's error, (B,)."""
        error = prediction.mean_part(output) - prediction.target(batch.x0, batch.noise, rates)
        error = ops.mean(ops.square(error), axis=tuple(range(1, len(error.shape))))
        return self.weighting(rates, prediction) * error


@register
@dataclass(frozen=True)
class ErrorAndDirection(Objective):
    """The squared error, and 1 − the cosine between output and target in each place.

    L = ‖ output − target ‖² + weight (1 − cos(output, target)), the vectors those of the channels,
    means over the places. An output shorter than 0.01 counts as that long, so that a new network,
    which gives 0, has gradients of ordinary size.

    Args:
        times: how times are drawn.
        weight: of the second term.

    Example:

    >>> process = keras_dit.processes.named("lightningdit")
    >>> process.objective
    ErrorAndDirection(times=LogitNormalTimes(mean=0.0, std=1.0), weight=1.0)

    Reference:
        Yao et al., Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion
        Models (2025), section 4.2.
    """

    times: TimeDistribution = LogitNormalTimes()
    weight: float = 1.0

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be 0 or more. Received: weight={self.weight}")

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.times(n, seed)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        prediction = process.prediction
        output = evaluate(batch.noisy(rates), rates)
        error = MeanSquaredError().error(output, batch, rates, prediction)
        one = prediction.mean_part(output)
        other = prediction.target(batch.x0, batch.noise, rates)
        cosine = ops.sum(one * other, axis=-1) / (_length(one) * _length(other))  # (B, H, W)
        return error + self.weight * (1.0 - ops.mean(cosine, axis=tuple(range(1, cosine.ndim))))


def _length(x):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=-1), 1e-4))


@register
@dataclass(frozen=True)
class Hybrid(Objective):
    """The squared error, and for the learned variance the variational bound in bits.

    L = ‖ output − target ‖² + L_k, the mean's gradient of L_k stopped: the bound teaches the
    variance alone. DiT was trained with it. The bound is that of the process's table.

    Args:
        times: how times are drawn.

    Example:

    >>> process = keras_dit.processes.named("dit")
    >>> process.objective
    Hybrid(times=UniformTimes())

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), section 3.1,
        with the bound's weight as facebookresearch/DiT has it.
    """

    times: TimeDistribution = UniformTimes()

    def check(self, process: Any) -> Any:
        if not isinstance(process.schedule, TableSchedule):
            raise ValueError(
                "the variational bound is that of a table: the schedule must be a TableSchedule. "
                f"Received: schedule={process.schedule}"
            )
        if not isinstance(process.prediction, LearnedVariance):
            raise ValueError(
                "the variational bound teaches a variance: the prediction must be a "
                f"LearnedVariance. Received: prediction={process.prediction}"
            )

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.times(n, seed)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        x_t = batch.noisy(rates)
        output = evaluate(x_t, rates)
        k = ops.cast(ops.round(process.schedule.timestep(rates.t)), "int32")
        denoised = process.prediction.denoised(output, x_t, rates)
        fixed = Denoised(ops.stop_gradient(denoised.x0), denoised.variance_fraction)
        error = MeanSquaredError().error(output, batch, rates, process.prediction)
        return error + Chain(process.schedule).bound(batch.x0, x_t, k, fixed)
