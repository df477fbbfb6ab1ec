"""Laws of keras_dit.predictions: what an output means, on every schedule and at its ends."""

import numpy as np
import pytest
from keras import ops

from keras_dit import Rates, schedules
from keras_dit.predictions import (
    CleanSample,
    FlooredSample,
    FlowVelocity,
    LearnedVariance,
    Noise,
    V,
)

PREDICTIONS = [Noise(), CleanSample(), V(), FlowVelocity()]
SCHEDULES = [schedules.LinearBeta(), schedules.CosineBeta(), schedules.RectifiedFlow()]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def draw(*shape, count=2, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype("float32") for _ in range(count)]


def denoised(prediction, output, x_t, rates):
    """`Denoised` of numpy arrays."""
    output, x_t = ops.convert_to_tensor(output), ops.convert_to_tensor(x_t)
    return prediction.denoised(output, x_t, rates)


def target(prediction, x0, noise, rates):
    x0, noise = ops.convert_to_tensor(x0), ops.convert_to_tensor(noise)
    return numpy(prediction.target(x0, noise, rates))


def rates_of(schedule, t):
    return Rates(*(np.asarray(numpy(part), "float32") for part in schedule(t)))


def mix(x0, noise, rates):
    alpha, sigma = (np.reshape(r, (-1, 1, 1, 1)) for r in (rates.alpha, rates.sigma))
    return alpha * x0 + sigma * noise


def tensors(rates):
    return Rates(*map(ops.convert_to_tensor, rates))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
def test_the_target_as_output_gives_x0_back(schedule, prediction):
    x0, noise = draw(8, 3, 2, 2)
    t = np.array([0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0], "float32")
    if prediction.needs_signal:
        t = np.minimum(t, 0.9)
    rates = rates_of(schedule, t)
    output = prediction.target(*map(ops.convert_to_tensor, (x0, noise)), tensors(rates))
    found = prediction.denoised(
        output, ops.convert_to_tensor(mix(x0, noise, rates)), tensors(rates)
    )
    assert found.variance_fraction is None
    scale = 1 + (1 / rates.alpha if prediction.needs_signal else np.ones(8))  # of rounding errors
    error = np.abs(numpy(found.x0) - x0).max(axis=(1, 2, 3))
    assert (error < 2e-6 * scale).all()


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
def test_targets_are_the_ones_of_the_literature(prediction):
    x0, noise = draw(5, 2, 2, 1)
    rates = rates_of(schedules.CosineBeta(), np.linspace(0.1, 0.9, 5))
    alpha, sigma = (r.reshape(-1, 1, 1, 1).astype("float64") for r in (rates.alpha, rates.sigma))
    expected = {
        Noise: noise,
        CleanSample: x0,
        V: alpha * noise - sigma * x0,
        FlowVelocity: noise - x0,
    }[type(prediction)]
    found = target(prediction, x0, noise, tensors(rates))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_velocity_is_the_slope_of_the_path():
    (x0, noise), h, flow = draw(1, 2, 2, 1), 1e-2, schedules.RectifiedFlow()
    ahead, behind = (mix(x0, noise, rates_of(flow, [0.4 + step])) for step in (h, -h))
    velocity = target(FlowVelocity(), x0, noise, flow(np.array([0.4])))
    np.testing.assert_allclose((ahead - behind) / (2 * h), velocity, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(
    "prediction", [*PREDICTIONS, FlooredSample(0.3), LearnedVariance(V())], ids=repr
)
def test_sensitivity_is_how_far_x0_moves_with_the_output(schedule, prediction):
    """x0 is linear in the output, so that the difference of two outputs is exact."""
    rates = tensors(rates_of(schedule, np.linspace(0.05, 0.9, 6)))
    (x_t,) = draw(6, 1, 1, 1, count=1)
    outputs = [np.full((6, 1, 1, prediction.output_channels(1)), y, "float32") for y in (0.0, 1.0)]
    low, high = (numpy(denoised(prediction, o, x_t, rates).x0)[:, 0, 0, 0] for o in outputs)
    np.testing.assert_allclose(
        np.abs(high - low), numpy(prediction.sensitivity(rates)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
def test_scalar_rates_count_for_the_whole_batch(prediction):
    (x_t, output), schedule = draw(3, 2, 2, 1), schedules.CosineBeta()
    one = denoised(prediction, output, x_t, schedule(0.3)).x0
    each = denoised(prediction, output, x_t, schedule(np.full(3, 0.3))).x0
    np.testing.assert_allclose(numpy(one), numpy(each), rtol=1e-6)


def test_only_the_noise_leaves_x0_open_without_signal():
    assert [p.needs_signal for p in PREDICTIONS] == [True, False, False, False]
    assert LearnedVariance(Noise()).needs_signal
    assert not LearnedVariance(V()).needs_signal


@pytest.mark.parametrize("mean", PREDICTIONS, ids=repr)
def test_learned_variance_is_another_prediction_and_as_many_channels(mean):
    prediction = LearnedVariance(mean)
    assert (prediction.output_channels(3), mean.output_channels(3)) == (6, 3)
    x0, noise, variance = draw(4, 2, 2, 3, count=3)
    rates = tensors(rates_of(schedules.CosineBeta(), np.linspace(0.1, 0.9, 4)))
    x_t = noise  # any
    output = np.concatenate([x0, variance], axis=-1)
    found, alone = denoised(prediction, output, x_t, rates), denoised(mean, x0, x_t, rates)
    np.testing.assert_array_equal(numpy(found.x0), numpy(alone.x0))
    np.testing.assert_allclose(numpy(found.variance_fraction), (variance + 1) / 2, rtol=1e-6)
    np.testing.assert_array_equal(numpy(prediction.mean_part(ops.convert_to_tensor(output))), x0)
    np.testing.assert_array_equal(
        target(prediction, x0, noise, rates), target(mean, x0, noise, rates)
    )
    np.testing.assert_array_equal(
        numpy(prediction.sensitivity(rates)), numpy(mean.sensitivity(rates))
    )
