"""The sampling loop: the only one.

A run visits the times t_0 > t_1 > … > t_n = 0 of a grid. Between two of them the solver takes a
step; the last one, to t = 0, is the denoiser itself, E[x0 | x_{t_{n−1}}].
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_dit.sampling.noise import HostNoise, drawn_ahead
from keras_dit.schedules import NoiseSchedule, Rates, Step, TimeGrid, UniformGrid
from keras_dit.solvers import DDIM, Solver

STEPS = 50  # of a run that names no number, on a grid that has none


def sample(
    denoise: Callable,
    noise: Any,
    schedule: NoiseSchedule,
    steps: int | None = None,
    solver: Any = None,
    grid: Any = None,
    seed: Any = 0,
    callback: Callable | None = None,
    indices: Any = None,
) -> Any:
    """Sample anything that can be denoised: no network needed.

    Args:
        denoise: (x_t, rates) -> `Denoised`, with x_t float32 (B, ...) and rates of scalars. It is
            called as it is: compile it first if that pays.
        noise: standard normal, (B, ...); the run starts from σ(t_0) times it.
        schedule: the `NoiseSchedule`.
        steps: number of steps, 1 … the schedule's own number; None: the grid's, else 50.
        solver: a `Solver`; None: `DDIM()`.
        grid: a `TimeGrid`; None: the schedule's.
        seed: of a stochastic solver's noise, as for `HostNoise`.
        callback: called as callback(step, t, x_t, x0) after each step, with the time that was
            left, the samples there and their denoised estimate, as numpy arrays.
        indices: the samples' numbers, which say what noise each gets; None: 0 … B − 1.

    Returns:
        The samples at t = 0, a float32 tensor (B, ...).

    Raises:
        ValueError: if steps is below 1 or above the schedule's, or not the grid's.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4)
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise = np.ones((1, 2), "float32")
    >>> x0 = sample(denoise, noise, keras_dit.schedules.RectifiedFlow(), steps=100)
    >>> round(float(x0[0, 0]), 1)
    0.5
    """
    solver = Solver.checked("solver", DDIM() if solver is None else solver)

    def advance(x, here, there, state, step_noise):
        return take_step(denoise, solver, x, here, there, state, step_noise)

    indices = range(len(noise)) if indices is None else indices
    step_noise = HostNoise(seed, indices, noise.shape[1:], stream=1)
    rates = run_rates(schedule, run_times(schedule, steps, grid))
    noise = ops.convert_to_tensor(noise, "float32")
    with drawn_ahead(step_noise, draws(solver, len(rates)), noise) as drawn:
        return run(advance, noise, rates, solver, drawn, callback)


def invert(
    denoise: Callable,
    x0: Any,
    schedule: NoiseSchedule,
    steps: int | None = None,
    solver: Any = None,
    grid: Any = None,
) -> Any:
    """Data -> noise: the run of a solver without noise and memory backwards.

    `sample` from what this gives comes back to x0, but for the error of the steps (DDIM
    inversion). The first step, which `sample` leaves to the denoiser, adds the noise that the
    denoiser sees in data without any.

    Args:
        denoise, schedule, steps, solver, grid: as for `sample`.
        x0: data, (B, ...).

    Returns:
        Noise, a float32 tensor (B, ...): `sample` takes it as its `noise`.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4)
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> x0 = np.full((1, 2), 0.5, "float32")
    >>> noise = invert(denoise, x0, keras_dit.schedules.RectifiedFlow(), steps=100)
    >>> round(float(noise[0, 0]), 1)
    1.0

    Reference:
        Song et al., Denoising Diffusion Implicit Models (2021), section 4.3.
    """
    solver = Solver.checked("solver", DDIM() if solver is None else solver)
    if not solver.reversible:
        raise ValueError(
            f"no run backwards with this solver: use DDIM, Euler or Heun. Received: {solver}"
        )
    rates = run_rates(schedule, run_times(schedule, steps, grid))[::-1]
    x = rates[0].alpha * ops.convert_to_tensor(x0, "float32")
    x = x + (x - rates[0].alpha * denoise(x, rates[0]).x0)
    for here, there in itertools.pairwise(rates):
        x, _ = solver.step(denoise, x, here, there, None, None)
    return x / rates[-1].sigma


def take_step(
    denoise: Callable, solver: Any, x: Any, here: Rates, there: Rates | None, state: Any, noise: Any
) -> tuple:
    """One step of a run, a pure function that can be compiled; `there` is None for the last one.

    Returns:
        The samples there, the solver's new state, and E[x0 | x] at `here`.
    """
    if there is None:
        x0 = denoise(x, Step(*here, until=0.0 * here.t)).x0
        return x0, state, x0
    estimates = []

    def watched(x_t, rates):
        estimates.append(denoise(x_t, rates))
        return estimates[-1]

    x, state = solver.step(watched, x, here, there, state, noise)
    return x, state, estimates[0].x0


def run(
    advance: Callable,
    noise: Any,
    rates: list[Rates],
    solver: Any,
    step_noise: Any,
    callback: Callable | None,
) -> Any:
    """The loop over a run's steps; `advance` is `take_step` of some denoiser, compiled or not."""
    x = ops.convert_to_tensor(noise, "float32") * rates[0].sigma
    state = solver.init(x)
    following = [*rates[1:], None]
    for step, (here, there) in enumerate(zip(rates, following)):
        z = None
        if there is not None and solver.stochastic:
            z = ops.convert_to_tensor(step_noise.draw())
        before = x
        x, state, x0 = advance(x, here, there, state, z)
        if callback is not None:
            numpy = ops.convert_to_numpy
            callback(step, float(numpy(here.t)), numpy(before), numpy(x0))
    return x


def evaluations(solver: Any, steps: int) -> int:
    """How often a run calls the denoiser; the last step does once.

    Example:

    >>> evaluations(keras_dit.solvers.DDIM(), 20), evaluations(keras_dit.solvers.Heun(), 20)
    (20, 39)
    """
    return solver.evaluations * (steps - 1) + 1


def draws(solver: Any, steps: int) -> int:
    """How often a run asks for noise after its first; the last step needs none.

    Example:

    >>> draws(keras_dit.solvers.DDIM(), 20), draws(keras_dit.solvers.DDPM(), 20)
    (0, 19)
    """
    return steps - 1 if solver.stochastic else 0


def run_times(schedule: NoiseSchedule, steps: int | None = None, grid: Any = None) -> np.ndarray:
    """The times of a run, numpy float32 (steps + 1,), falling to 0.

    Raises:
        ValueError: if the schedule and the grid have no such run.

    Example:

    >>> run_times(keras_dit.schedules.RectifiedFlow(), 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    grid = schedule.grid or UniformGrid() if grid is None else grid
    TimeGrid.checked("grid", grid)
    steps = steps if steps is not None else grid.steps or min(STEPS, schedule.steps or STEPS)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps must be an integer of 1 or more. Received: steps={steps!r}")
    if schedule.steps is not None and steps > schedule.steps:
        raise ValueError(
            f"steps must be at most the schedule's {schedule.steps}. Received: steps={steps}"
        )
    if grid.steps is not None and steps != grid.steps:
        raise ValueError(f"steps must be the grid's {grid.steps}. Received: steps={steps}")
    times = grid(schedule, int(steps))
    if not (times[0] <= 1 and times[-1] == 0 and (np.diff(times) < 0).all()):
        raise ValueError(
            f"the times of {grid} with steps={steps} do not fall from at most 1 to 0. "
            f"Received: schedule={schedule}"
        )
    return times


def run_rates(schedule: NoiseSchedule, times: Any) -> list[Rates]:
    """The rates of every time of a run but the last, 0, each a `Rates` of scalar tensors.

    Example:

    >>> rates = run_rates(keras_dit.schedules.RectifiedFlow(), [1.0, 0.5, 0.0])
    >>> [float(each.alpha) for each in rates]
    [0.0, 0.5]
    """
    table = [ops.convert_to_numpy(values) for values in schedule(times[:-1])]
    return [Rates(*map(ops.convert_to_tensor, row)) for row in zip(*table, strict=True)]
