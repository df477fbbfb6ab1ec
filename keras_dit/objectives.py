"""What training minimises: which times are drawn, and how an error there is weighted.

L = E_{t, x0, ε} [ w(t) ‖ output − target ‖² ],   the mean over a picture's numbers.
"""

import math
from dataclasses import dataclass

import keras
from keras import ops

from keras_dit.gaussian import Chain
from keras_dit.predictions import Denoised, LearnedVariance
from keras_dit.schedules import TableSchedule, broadcast
from keras_dit.serialization import Configurable, register


class TimeDistribution(Configurable):
    """How the times of a training batch are drawn. Subclasses are frozen dataclasses."""

    def __call__(self, n, seed):
        """n times in [0, 1], float32 (n,), from a `keras.random.SeedGenerator`."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class UniformTimes(TimeDistribution):
    """Every time equally often."""

    def __call__(self, n, seed):
        return keras.random.uniform((n,), seed=seed, dtype="float32")


@register
@dataclass(frozen=True)
class LogitNormalTimes(TimeDistribution):
    """t = sigmoid(mean + std · N(0, 1)): the middle of the path more often than its ends.

    Reference:
        Esser et al., Scaling Rectified Flow Transformers (2024), section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"mean must be finite and std positive. Received: {self}")

    def __call__(self, n, seed):
        normal = keras.random.normal((n,), seed=seed, dtype="float32")
        return ops.sigmoid(self.mean + self.std * normal)


class Weighting(Configurable):
    """How much an error at a time counts. Subclasses are frozen dataclasses."""

    def __call__(self, rates, prediction):
        """The factor of the squared error of the output, float32 (B,)."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class EqualWeighting(Weighting):
    """1 at every time: for the noise prediction DDPM's simple loss."""

    def __call__(self, rates, prediction):
        return ops.ones_like(rates.alpha)


@register
@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, γ) as the weight of x0's error, SNR = α²/σ².

    The error of x0 is that of the output times `prediction.sensitivity`, which gives each
    prediction its form: min(SNR, γ)/SNR for the noise, min(SNR, γ)/(SNR + 1) for v.

    Reference:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (2023).
    """

    gamma: float = 5.0

    def __post_init__(self):
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive and finite. Received: gamma={self.gamma}")

    def __call__(self, rates, prediction):
        tiny = 1e-12  # σ is 0 at t = 0, where the weight is γ times a sensitivity of 0
        snr = (rates.alpha / ops.maximum(rates.sigma, tiny)) ** 2
        return ops.minimum(snr, self.gamma) * prediction.sensitivity(rates) ** 2


class Objective(Configurable):
    """A training objective. Subclasses are frozen dataclasses."""

    example = "objectives.MeanSquaredError()"

    def check(self, schedule, prediction):
        """Raise ValueError if the objective cannot go with these parts of a `Diffusion`."""

    def sample_times(self, n, seed):
        """n times in [0, 1], float32 (n,), from a `keras.random.SeedGenerator`."""
        raise NotImplementedError

    def loss(self, output, x0, noise, rates, prediction):
        """The loss of each sample.

        Args:
            output: what the network gave, float32 (B, ...).
            x0, noise: clean samples and the noise added to them, float32 (B, ...).
            rates: `Rates` of shape (B,).
            prediction: the `Prediction` that says what the output means.

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
    """

    times: TimeDistribution = UniformTimes()
    weighting: Weighting = EqualWeighting()

    def sample_times(self, n, seed):
        return self.times(n, seed)

    def loss(self, output, x0, noise, rates, prediction):
        error = prediction.mean_part(output) - prediction.target(x0, noise, rates)
        error = ops.mean(ops.square(error), axis=tuple(range(1, len(x0.shape))))
        return self.weighting(rates, prediction) * error


@register
@dataclass(frozen=True)
class Hybrid(Objective):
    """The squared error, and for the learned variance the variational bound in bits.

    L = ‖ output − target ‖² + L_k, the mean's gradient of L_k stopped: the bound teaches the
    variance alone. DiT was trained with it.

    Args:
        schedule: the table whose steps the bound is of: that of the `Diffusion`.
        times: how times are drawn.

    Reference:
        Nichol, Dhariwal: Improved Denoising Diffusion Probabilistic Models (2021), section 3.1,
        with the bound's weight as facebookresearch/DiT has it.
    """

    schedule: TableSchedule
    times: TimeDistribution = UniformTimes()

    def check(self, schedule, prediction):
        if schedule != self.schedule:
            raise ValueError(
                "the objective's schedule must be that of the Diffusion. "
                f"Received: {self.schedule} and {schedule}"
            )
        if not isinstance(prediction, LearnedVariance):
            raise ValueError(
                "the variational bound teaches a variance: the prediction must be a "
                f"LearnedVariance. Received: prediction={prediction}"
            )

    def sample_times(self, n, seed):
        return self.times(n, seed)

    def loss(self, output, x0, noise, rates, prediction):
        factor = broadcast(rates, x0)
        x_t = factor.alpha * x0 + factor.sigma * noise
        k = ops.cast(ops.round(self.schedule.timestep(rates.t)), "int32")
        denoised = prediction.denoised(output, x_t, rates)
        fixed = Denoised(ops.stop_gradient(denoised.x0), denoised.variance_fraction)
        error = MeanSquaredError().loss(output, x0, noise, rates, prediction)
        return error + Chain(self.schedule).bound(x0, x_t, k, fixed)
