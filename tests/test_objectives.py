"""Laws of keras_dit.objectives: how times are drawn, min-SNR's forms, the loss."""

import statistics

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import predictions, schedules
from keras_dit.objectives import (
    Batch,
    LogitNormalTimes,
    MeanSquaredError,
    MinSNR,
    UniformTimes,
)
from keras_dit.processes import Process

COUNT = 40000


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def times(distribution, n=COUNT, seed=3):
    return numpy(distribution(n, keras.random.SeedGenerator(seed)))


@pytest.mark.parametrize(
    ("distribution", "share_below"),
    [
        (UniformTimes(), lambda t: t),
        (LogitNormalTimes(), lambda t: statistics.NormalDist().cdf(np.log(t / (1 - t)))),
        (LogitNormalTimes(-0.8, 0.5),
         lambda t: statistics.NormalDist(-0.8, 0.5).cdf(np.log(t / (1 - t)))),
    ],
)  # fmt: skip
def test_times_follow_their_distribution(distribution, share_below):
    drawn = times(distribution)
    assert (drawn.shape, drawn.dtype) == ((COUNT,), np.float32)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        share = share_below(t)
        deviation = max(np.sqrt(share * (1 - share) / COUNT), 1e-4)
        assert abs((drawn < t).mean() - share) < 4 * deviation


def loss_of(objective, output, x0, noise, rates, prediction):
    """The loss where the network gives `output` at the noisy samples, and only there."""
    batch = Batch(x0, noise)

    def evaluate(x_t, at):
        np.testing.assert_allclose(numpy(x_t), numpy(batch.noisy(rates)), atol=1e-6)
        assert at is rates
        return output

    process = Process(schedules.LinearBeta(), prediction, objective)
    return objective.loss(evaluate, batch, rates, process)


def test_times_are_drawn_anew_and_again_from_their_seed():
    seed = keras.random.SeedGenerator(5)
    first, second = (numpy(UniformTimes()(8, seed)) for _ in range(2))
    assert (first != second).all()
    np.testing.assert_array_equal(first, times(UniformTimes(), 8, 5))


def test_an_objective_samples_its_times():
    distribution = LogitNormalTimes(0.3, 0.7)
    np.testing.assert_array_equal(
        numpy(MeanSquaredError(distribution).sample_times(9, keras.random.SeedGenerator(1))),
        times(distribution, 9, 1),
    )


# Hang et al. (2023), section 3.3 and its appendix, as functions of SNR and γ.
FORMS = [
    (predictions.Noise(), lambda snr, gamma: np.minimum(snr, gamma) / snr),
    (predictions.CleanSample(), np.minimum),
    (predictions.V(), lambda snr, gamma: np.minimum(snr, gamma) / (snr + 1)),
    # The error of x0 is σ / (α + σ) times that of the velocity.
    (predictions.FlowVelocity(),
     lambda snr, gamma: np.minimum(snr, gamma) / (np.sqrt(snr) + 1) ** 2),
]  # fmt: skip


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize(("prediction", "form"), FORMS)
@pytest.mark.parametrize("schedule", [schedules.LinearBeta(), schedules.RectifiedFlow()], ids=repr)
def test_min_snr_has_the_form_of_each_prediction(prediction, form, gamma, schedule):
    if isinstance(prediction, predictions.V) and isinstance(schedule, schedules.RectifiedFlow):
        return  # the paper's form for v is that of α² + σ² = 1
    rates = schedule(np.linspace(0.02, 0.98, 25))
    alpha, sigma = (numpy(part).astype("float64") for part in (rates.alpha, rates.sigma))
    expected = form((alpha / sigma) ** 2, gamma)
    np.testing.assert_allclose(numpy(MinSNR(gamma)(rates, prediction)), expected, rtol=1e-5)
    learned = predictions.LearnedVariance(prediction)
    np.testing.assert_allclose(numpy(MinSNR(gamma)(rates, learned)), expected, rtol=1e-5)


@pytest.mark.parametrize("prediction", [p for p, _ in FORMS[1:]], ids=repr)
def test_min_snr_is_finite_at_both_ends(prediction):
    weights = numpy(MinSNR()(schedules.RectifiedFlow()(np.array([0.0, 1.0])), prediction))
    expected = [5.0 if isinstance(prediction, predictions.CleanSample) else 0.0, 0.0]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


@pytest.mark.parametrize("prediction", [p for p, _ in FORMS], ids=repr)
def test_weighted_losses_of_one_estimate_of_x0_agree(prediction):
    """However an estimate of x0 is expressed, min-SNR weighs its error alike."""
    generator = np.random.default_rng(0)
    x0, noise, guess = (generator.standard_normal((6, 2, 2, 1)).astype("float32") for _ in range(3))
    rates = schedules.LinearBeta()(np.linspace(0.2, 0.6, 6))
    alpha, sigma = (numpy(part).reshape(-1, 1, 1, 1) for part in (rates.alpha, rates.sigma))
    implied_noise = (alpha * x0 + sigma * noise - alpha * guess) / sigma
    tensors = map(ops.convert_to_tensor, (x0, noise, guess, implied_noise))
    clean, noise, estimate, implied_noise = tensors
    output = prediction.target(estimate, implied_noise, rates)
    objective = MeanSquaredError(weighting=MinSNR())
    loss = numpy(loss_of(objective, output, clean, noise, rates, prediction))
    weight = np.minimum((alpha / sigma) ** 2, 5.0)
    expected = (weight * (guess - x0).astype("float64") ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("weighting", [None, MinSNR(2.0)], ids=repr)
@pytest.mark.parametrize("learned", [False, True])
def test_the_loss_is_the_weighted_mean_of_squares(weighting, learned):
    generator = np.random.default_rng(1)
    x0, noise = (generator.standard_normal((4, 2, 3, 2)).astype("float32") for _ in range(2))
    output = generator.standard_normal((4, 2, 3, 4 if learned else 2)).astype("float32")
    rates = schedules.CosineBeta()(np.linspace(0.1, 0.9, 4))
    prediction = predictions.LearnedVariance() if learned else predictions.Noise()
    objective = MeanSquaredError() if weighting is None else MeanSquaredError(weighting=weighting)
    snr = (numpy(rates.alpha) / numpy(rates.sigma)) ** 2
    weight = 1.0 if weighting is None else np.minimum(snr, 2.0) / snr
    expected = weight * ((output[..., :2] - noise).astype("float64") ** 2).mean(axis=(1, 2, 3))
    tensors = map(ops.convert_to_tensor, (output, x0, noise))
    loss = loss_of(objective, *tensors, rates, prediction)
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinSNR(0.0), "gamma must be positive and finite. Received: gamma=0.0"),
        (lambda: MinSNR(float("inf")), "gamma=inf"),
        (lambda: LogitNormalTimes(std=0.0), "std positive"),
        (lambda: LogitNormalTimes(mean=float("nan")), "mean must be finite"),
    ],
)
def test_numbers_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
