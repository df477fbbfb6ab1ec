"""Runs of few steps, on data whose end of the probability flow is known: no solver is worse there
than DDIM, on any grid of any schedule.

Over x / α the flow is dy / d log s = y − x0 with s = σ / α, whatever the schedule, so that the
reference shares nothing with the solvers.
"""

import functools
import itertools

import numpy as np
import pytest
from closed_form import denoise, run
from keras import ops
from test_orders import DEVIATION, MEAN, moments_after

from keras_dit import Rates, sampler, schedules, solvers

SCHEDULES = [
    schedules.LinearBeta(),
    schedules.CosineBeta(),
    schedules.ScaledLinearBeta(),
    schedules.ZeroTerminalSNR(),
    schedules.RectifiedFlow(),
    schedules.EDM(),
]
GRIDS = [
    schedules.UniformGrid(),
    schedules.LeadingGrid(),
    schedules.LinspaceGrid(),
    schedules.ShiftedGrid(3.0),
    schedules.ShiftedGrid(0.5),
    schedules.LogSNRGrid(),
    schedules.KarrasGrid(),
]
SOLVERS = [
    solvers.Heun(),
    solvers.Midpoint(),
    solvers.DPMSolverPP2M(),
    solvers.DPMSolverPP3M(),
    solvers.UniPC(1),
    solvers.UniPC(2),
    solvers.UniPC(3),
]
COUNTS = (5, 8, 10, 15, 20)
NOISE = np.random.default_rng(0).standard_normal((40, 2))


@functools.cache
def exact(most):
    """Where the flow leads that starts from y = s z at s = `most`; classical Runge-Kutta."""

    def slope(y, log_s):
        return y - denoise(y, Rates(0.0, 1.0, np.exp(log_s))).x0

    y = most * NOISE
    for here, there in itertools.pairwise(np.linspace(np.log(most), np.log(1e-4), 1501)):
        h, middle = there - here, (here + there) / 2
        k1 = slope(y, here)
        k2 = slope(y + h / 2 * k1, middle)
        k3 = slope(y + h / 2 * k2, middle)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, there))
    return denoise(y, Rates(0.0, 1.0, 1e-4)).x0


def error(solver, rates):
    """Of a whole run, its last step, the denoiser, included; root mean square."""
    signal = rates[0].alpha > 1e-4
    truth = exact(float(rates[0].sigma / rates[0].alpha) if signal else 1e4)
    with np.errstate(divide="ignore", invalid="ignore"):  # λ = −∞, in what is then left out
        x = run(solver, rates[0].sigma * NOISE, rates)
    return np.sqrt(np.mean((denoise(x, rates[-1]).x0 - truth) ** 2))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_solver_is_worse_than_ddim(schedule, grid):
    if schedule.steps is None and isinstance(grid, (schedules.LeadingGrid, schedules.LinspaceGrid)):
        pytest.skip("a grid for tables")
    for steps in COUNTS:
        table = schedule(sampler.run_times(schedule, steps, grid)[:-1])
        columns = [ops.convert_to_numpy(column).astype("float64") for column in table]
        rates = [Rates(*row) for row in zip(*columns, strict=True)]
        most = error(solvers.DDIM(), rates)
        for solver in SOLVERS:
            assert error(solver, rates) <= most, (solver, steps)


# With noise: x0 is Gaussian, so that each run's mean and variance are known (test_orders.py)


def moments_error(solver, rates):
    """Of the mean and the variance of a whole run, the denoiser at its end included."""
    last = rates[-1]
    gain = last.alpha * DEVIATION**2 / (last.alpha**2 * DEVIATION**2 + last.sigma**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, variance = moments_after(solver, rates)
    mean = MEAN + gain * (mean - last.alpha * MEAN)
    return np.hypot(mean - MEAN, gain**2 * variance - DEVIATION**2)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_order_or_share_of_noise_is_worse_than_ddpm(grid):
    tables = not isinstance(grid, (schedules.LeadingGrid, schedules.LinspaceGrid))
    for schedule in SCHEDULES:
        if schedule.steps is None and not tables:
            continue
        for steps in COUNTS:
            table = schedule(sampler.run_times(schedule, steps, grid)[:-1])
            columns = [ops.convert_to_numpy(column).astype("float64") for column in table]
            rates = [Rates(*row) for row in zip(*columns, strict=True)]
            most = moments_error(solvers.DDPM(), rates) * (1 + 1e-9)
            for solver in (solvers.DPMSolverPP2MSDE(), solvers.DDIM(0.5)):
                assert moments_error(solver, rates) <= most, (schedule, solver, steps)
