"""Measured orders of convergence, on data whose probability flow is known to ten digits.

The error of a run of n steps from t = 0.9 to 0.1 is regressed on n, both in logarithms. A run
ends above t = 0: the last step, to 0, is the denoiser's own and no solver's.

Stochastic solvers are measured in distribution and without sampling error: for Gaussian data
every step is linear in x and in the noise, so a run on the coefficients of (1, z_0, z_1 … z_n)
gives its mean and variance exactly.
"""

import functools

import numpy as np
import pytest
from closed_form import SCHEDULES, noisy, run, transport

from keras_dit import Denoised, solvers

START, END = 0.9, 0.1
LEAST = {1: 0.85, 2: 1.8, 3: 2.6}
SOLVERS = [
    solvers.DDIM(),
    solvers.Euler(),
    solvers.EulerAncestral(0.0),
    solvers.EulerMaruyama(0.0),
    solvers.Heun(),
    solvers.Midpoint(),
    solvers.DPMSolverPP2M(),
    solvers.DPMSolverPP3M(),
    solvers.UniPC(1),
    solvers.UniPC(2),
    solvers.UniPC(3),
]


@functools.cache
def exact(schedule):
    x = noisy(SCHEDULES[schedule](np.float64(START)), 50, seed=0)
    return x, transport(x, START, END, SCHEDULES[schedule])


def error(solver, schedule, steps):
    x, truth = exact(schedule)
    rates = [SCHEDULES[schedule](t) for t in np.linspace(START, END, steps + 1)]
    return np.sqrt(np.mean((run(solver, x, rates) - truth) ** 2))


def slope(solver, schedule, counts=(32, 64, 128, 256)):
    errors = [error(solver, schedule, n) for n in counts]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_solver_has_the_order_that_it_says(solver, schedule):
    assert slope(solver, schedule) >= LEAST[solver.order]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_reference_is_exact(schedule):
    x, truth = exact(schedule)
    finer = transport(x, START, END, SCHEDULES[schedule], steps=1500)
    np.testing.assert_allclose(truth, finer, atol=1e-9)


def test_without_signal_at_the_start_second_order_is_still_reached():
    """Rectified flow from t = 1, where λ = −∞."""
    schedule = SCHEDULES["flow"]
    x = np.random.default_rng(0).standard_normal((50, 2))
    truth = transport(x, 1.0, END, schedule)
    for solver in (solvers.Heun(), solvers.DPMSolverPP2M(), solvers.UniPC(2), solvers.UniPC(3)):
        errors = []
        for steps in (32, 64, 128, 256):
            rates = [schedule(t) for t in np.linspace(1.0, END, steps + 1)]
            with np.errstate(divide="ignore"):
                errors.append(np.sqrt(np.mean((run(solver, x, rates) - truth) ** 2)))
        assert -np.polyfit(np.log([32, 64, 128, 256]), np.log(errors), 1)[0] >= 1.8, solver


# Stochastic solvers: x0 ~ N(MEAN, DEVIATION²)

MEAN, DEVIATION = 0.7, 0.5
STOCHASTIC = [
    solvers.DDPM(),
    solvers.DDPM(0.5),
    solvers.DDPM(1.0),
    solvers.DDIM(0.4),
    solvers.DDIM(1.0),
    solvers.EulerAncestral(),
    solvers.EulerMaruyama(),
    solvers.EulerMaruyama(0.3),
    solvers.DPMSolverPP2MSDE(),
]


def gaussian(x, rates):
    """E[x0 | x_t] of coefficients: (1, z_0, z_1 …)."""
    gain = rates.alpha * DEVIATION**2 / (rates.alpha**2 * DEVIATION**2 + rates.sigma**2)
    mean = np.zeros_like(x)
    mean[0] = MEAN
    return Denoised(mean + gain * (x - rates.alpha * mean))


def moments_after(solver, rates, denoise=gaussian):
    """Mean and variance of a run that starts from the true distribution."""
    first, last = rates[0], len(rates) - 1
    basis = np.eye(last + 2)
    x = first.alpha * MEAN * basis[0]
    x = x + np.sqrt(first.alpha**2 * DEVIATION**2 + first.sigma**2) * basis[1]
    state = solver.init(x)
    for i in range(last):
        noise = basis[i + 2] if solver.stochastic else None
        x, state = solver.step(denoise, x, rates[i], rates[i + 1], state, noise)
    return x[0], np.sum(x[1:] ** 2)


def moment_error(solver, schedule, steps):
    rates = [SCHEDULES[schedule](t) for t in np.linspace(0.95, 0.1, steps + 1)]
    mean, variance = moments_after(solver, rates)
    last = rates[-1]
    true_variance = last.alpha**2 * DEVIATION**2 + last.sigma**2
    return np.hypot(mean - last.alpha * MEAN, variance - true_variance)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_a_stochastic_solver_reaches_the_mean_and_variance_at_its_order(solver, schedule):
    counts = (64, 128, 256, 512)
    errors = [moment_error(solver, schedule, n) for n in counts]
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] >= LEAST[solver.order]
    assert errors[-1] < 0.02


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_with_a_consistency_model_lcm_is_exact_in_any_number_of_steps(schedule, steps):
    """The model gives the end of the trajectory: of Gaussian data, x0 at the same quantile."""

    def consistent(x, rates):
        total = np.sqrt(rates.alpha**2 * DEVIATION**2 + rates.sigma**2)
        mean = np.zeros_like(x)
        mean[0] = MEAN
        return Denoised(mean + DEVIATION / total * (x - rates.alpha * mean))

    rates = [SCHEDULES[schedule](t) for t in np.linspace(0.95, 0.1, steps + 1)]
    mean, variance = moments_after(solvers.LCM(), rates, consistent)
    last = rates[-1]
    np.testing.assert_allclose(mean, last.alpha * MEAN, rtol=1e-12)
    np.testing.assert_allclose(variance, last.alpha**2 * DEVIATION**2 + last.sigma**2, rtol=1e-12)
