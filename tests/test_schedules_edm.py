"""Laws of EDM's preconditioning, which goes with the schedule EDM, and of a model trained so."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import Denoiser, objectives, predictions, schedules, solvers
from keras_dit.predictions import Preconditioned

S = 0.5


def numpy(*values):
    return [ops.convert_to_numpy(value) for value in values]


def batch(schedule, seed=0):
    """Times over the whole range, rates, data of deviation S, noise and x_t."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.01, 1.0, 40).astype("float32")
    rates = schedule(t)
    x0 = (S * rng.standard_normal((40, 500))).astype("float32")
    noise = rng.standard_normal((40, 500)).astype("float32")
    alpha, sigma = numpy(rates.alpha, rates.sigma)
    found = x0, noise, alpha[:, None] * x0 + sigma[:, None] * noise
    return rates, *map(ops.convert_to_tensor, found)


@pytest.mark.parametrize("schedule", [schedules.EDM(), schedules.RectifiedFlow()], ids=str)
def test_the_target_leads_back_to_the_data(schedule):
    rates, x0, noise, x_t = batch(schedule)
    target = Preconditioned(S).target(x0, noise, rates)
    (again,) = numpy(Preconditioned(S).denoised(target, x_t, rates).x0)
    np.testing.assert_allclose(again, *numpy(x0), atol=2e-5)


@pytest.mark.parametrize("schedule", [schedules.EDM(), schedules.CosineBeta()], ids=str)
def test_input_and_target_have_variance_1_at_every_noise_level(schedule):
    rates, x0, noise, x_t = batch(schedule)
    seen = Preconditioned(S).network_input(x_t, rates)
    target = Preconditioned(S).target(x0, noise, rates)
    for values in numpy(seen, target):
        np.testing.assert_allclose(values.std(axis=1), 1.0, atol=0.16)  # five standard errors
        assert abs(values.std() - 1) < 0.02


def test_on_unit_data_and_a_vp_schedule_it_is_minus_v():
    rates, x0, noise, x_t = batch(schedules.CosineBeta())
    v = predictions.V().target(x0, noise, rates)
    target = Preconditioned(1.0).target(x0, noise, rates)
    np.testing.assert_allclose(*numpy(target, -v), atol=1e-6)
    np.testing.assert_allclose(
        *numpy(
            Preconditioned(1.0).denoised(target, x_t, rates).x0,
            predictions.V().denoised(v, x_t, rates).x0,
        ),
        atol=1e-6,
    )


def test_its_factors_are_those_of_the_paper():
    """Karras et al. (2022), table 1: c_skip, c_out and c_in for α = 1."""
    sigma = np.array([0.002, 0.1, 1.0, 80.0])
    rates = np.stack([sigma, 1 + 0 * sigma, sigma]).astype("float32")
    rates = keras_dit.Rates(*map(ops.convert_to_tensor, rates))
    x = ops.ones((4, 1))
    part = Preconditioned(S)
    c_in, c_skip, both = numpy(
        part.network_input(x, rates),
        part.denoised(0 * x, x, rates).x0,
        part.denoised(x, x, rates).x0,
    )
    root = np.sqrt(sigma**2 + S**2)
    np.testing.assert_allclose(c_in[:, 0], 1 / root, rtol=1e-6)
    np.testing.assert_allclose(c_skip[:, 0], S**2 / root**2, rtol=1e-5)
    np.testing.assert_allclose((both - c_skip)[:, 0], sigma * S / root, rtol=1e-4)
    np.testing.assert_allclose(*numpy(part.sensitivity(rates), sigma * S / root), rtol=1e-6)


def test_the_network_is_given_the_scaled_input():
    seen = []

    class Network:
        num_classes = None

        def __call__(self, x, t, y, training):
            seen.append((x, t))
            return 0 * x

    denoiser = Denoiser(Network(), schedules.EDM(), Preconditioned(S))
    rates = schedules.EDM()(0.9)
    x_t = ops.ones((2, 3))
    denoiser(x_t, rates)
    (x, t), (sigma,) = numpy(*seen[0]), numpy(rates.sigma)
    np.testing.assert_allclose(x, 1 / np.sqrt(sigma**2 + S**2), rtol=1e-6)
    np.testing.assert_allclose(t, np.log(sigma) / 4, rtol=1e-5)


def test_a_model_with_edms_parts_trains_saves_and_samples(tmp_path):
    network = keras_dit.DiTModel((4, 4, 1), 2, 16, 1, 2, num_classes=2)
    model = keras_dit.Diffusion(
        network,
        schedules.EDM(),
        Preconditioned(S),
        objectives.MeanSquaredError(times=objectives.LogitNormalTimes(-1.2, 1.2)),
    )
    model.compile(keras.optimizers.Adam(1e-3))
    rng = np.random.default_rng(0)
    images = (S * rng.standard_normal((16, 4, 4, 1))).astype("float32")
    loss = model.evaluate(images, np.zeros(16, "int32"), verbose=0)
    loss = loss["loss"] if isinstance(loss, dict) else loss
    assert 0.6 < loss < 1.5  # a new network gives 0, and the target has variance 1
    model.fit(images, np.zeros(16, "int32"), epochs=2, batch_size=8, verbose=0)
    pictures = model.generate([0, 1], steps=5, solver=solvers.DPMSolverPP2M())
    assert np.isfinite(pictures).all()
    model.save(tmp_path / "edm.keras")
    again = keras.saving.load_model(tmp_path / "edm.keras")
    np.testing.assert_allclose(
        again.generate([0, 1], steps=5, solver=solvers.DPMSolverPP2M()), pictures, atol=1e-5
    )
