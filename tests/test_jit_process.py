"""Laws of the process "jit": the loss, the floor of time and the noise scale, by closed forms."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import objectives, predictions, processes, sampler, schedules, solvers
from keras_dit.objectives import Batch, VelocityWeighting

FLOOR = 0.05
JIT = processes.named("jit")
TIMES = np.array([0.01, 0.04, 0.2, 0.7, 0.99], "float32")


def draw(*shape, count=2, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype("float32") for _ in range(count)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def column(t):
    return t.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_loss_is_the_error_of_a_velocity_with_a_floor(scale):
    """Li, He (2025), algorithm 1, whose t is 1 minus ours."""
    x0, noise, output = draw(5, 4, 4, 2, count=3)
    process = processes.Process(
        schedules.ReversedFlow(noise_scale=scale), JIT.prediction, JIT.objective
    )
    t = column(TIMES.astype("float64"))
    z = (1 - t) * x0 + t * scale * noise
    target, velocity = ((x - z) / np.maximum(t, FLOOR) for x in (x0, output))
    expected = ((target - velocity) ** 2).mean(axis=(1, 2, 3))
    batch = Batch(*map(ops.convert_to_tensor, (x0, noise)))

    def evaluate(x_t, rates):
        np.testing.assert_allclose(numpy(x_t), z, atol=1e-6)
        return ops.convert_to_tensor(output)

    loss = process.objective.loss(evaluate, batch, process.schedule(TIMES), process)
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


def test_the_network_is_given_its_time():
    np.testing.assert_allclose(numpy(JIT.schedule.timestep(TIMES)), 1 - TIMES, atol=1e-7)


def test_times_are_those_of_the_paper_the_other_way_round():
    """logit of its t ~ N(−0.8, 0.8²)."""
    t = numpy(JIT.objective.sample_times(20000, keras.random.SeedGenerator(1)))
    logit = np.log((1 - t) / t)
    assert abs(logit.mean() + 0.8) < 0.03
    assert abs(logit.std() - 0.8) < 0.03


def test_the_last_step_is_the_paper_s_with_a_floor():
    x_t, output = draw(5, 4, 4, 2)
    t = column(TIMES)
    expected = x_t + t * (output - x_t) / np.maximum(t, FLOOR)
    x0 = JIT.prediction.denoised(
        ops.convert_to_tensor(output), ops.convert_to_tensor(x_t), JIT.schedule(TIMES)
    ).x0
    np.testing.assert_allclose(numpy(x0), expected, atol=1e-6)


def test_a_floor_below_all_times_is_the_clean_sample():
    x_t, output = map(ops.convert_to_tensor, draw(5, 4, 4, 2))
    rates = JIT.schedule(TIMES)
    found = [p.denoised(output, x_t, rates).x0 for p in
             (predictions.FlooredSample(1e-3), predictions.CleanSample())]  # fmt: skip
    np.testing.assert_allclose(*map(numpy, found), atol=1e-6)


@pytest.mark.parametrize("velocity", [predictions.FlowVelocity(), predictions.DataVelocity()])
def test_a_velocity_s_error_has_weight_one(velocity):
    weights = numpy(VelocityWeighting()(JIT.schedule(TIMES), velocity))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-5)


def test_the_weight_at_the_data_is_finite():
    weights = VelocityWeighting()(JIT.schedule(np.zeros(2, "float32")), JIT.prediction)
    assert np.isfinite(numpy(weights)).all()


def test_euler_s_steps_are_the_paper_s_at_any_noise_scale():
    """z ← z + (t′ − t) (x̂ − z) / max(1 − t, floor), by a denoiser in closed form."""
    schedule = schedules.ReversedFlow(noise_scale=2.0)
    (noise,) = draw(3, 2, 2, 1, count=1)

    def network(z, t):  # any function, of the paper's time
        return np.cos(3 * z) * (1 + t)

    z, grid = 2.0 * noise.astype("float64"), np.linspace(0, 1, 41)
    for here, there in itertools.pairwise(grid):
        z = z + (there - here) * (network(z, here) - z) / max(1 - here, FLOOR)

    def denoise(x_t, rates):
        output = ops.cos(3 * x_t) * (2 - rates.t)
        return JIT.prediction.denoised(output, x_t, rates)

    x0 = sampler.sample(
        denoise, ops.convert_to_tensor(noise), schedule, steps=40, solver=solvers.Euler()
    )
    np.testing.assert_allclose(numpy(x0), z, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: predictions.FlooredSample(0.0), r"floor must be in \(0, 1\]. Received: floor=0.0"),
        (lambda: schedules.ReversedFlow(-1.0), "noise_scale must be above 0. Received: noise_s"),
    ],
)
def test_what_makes_no_sense_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_other_files_of_a_straight_line_have_noise_scale_one():
    assert schedules.ReversedFlow.from_config({}) == schedules.ReversedFlow(1.0)
    assert objectives.VelocityWeighting() == JIT.objective.weighting
