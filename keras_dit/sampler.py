"""The sampling loop: the only one.

A run visits the times t_0 > t_1 > … > t_N = 0 of a grid. Between two of them the solver takes a
step; the last one, to t = 0, is the denoiser itself, E[x0 | x_{t_{N−1}}].
"""

import numpy as np
from keras import ops

from keras_dit.schedules import Rates, UniformGrid
from keras_dit.solvers import DDIM


class HostNoise:
    """Standard normal noise, drawn on the host so that every backend gets the same.

    Each sample has a stream of its own, numpy's Philox keyed by (seed, index): what a sample
    gets depends neither on the batch it is made in nor on the other samples.

    Args:
        seed: integer of 0 or more.
        indices: the samples' numbers within the run.
        shape: of one sample.
        stream: 0 for a run's first noise, 1 for that of its steps.
    """

    def __init__(self, seed, indices, shape, stream):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed must be an integer of 0 or more. Received: seed={seed!r}")
        self.shape = tuple(shape)
        self.generators = [_philox(int(seed), int(index), stream) for index in indices]

    def draw(self):
        """The next noise, numpy float32 (len(indices), *shape)."""
        draws = [g.standard_normal(self.shape, dtype="float32") for g in self.generators]
        return np.stack(draws)


def _philox(seed, index, stream):
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream]))


def initial_noise(seed, indices, shape):
    """The noise that `Diffusion` starts a run from: numpy float32 (len(indices), *shape)."""
    return HostNoise(seed, indices, shape, stream=0).draw()


def sample(
    denoise, noise, schedule, steps=50, solver=None, grid=None, seed=0, callback=None, indices=None
):
    """Sample anything that can be denoised: no network needed.

    Args:
        denoise: (x_t, rates) -> `Denoised`, with x_t float32 (B, ...) and rates of scalars. It is
            called as it is: compile it first if that pays.
        noise: standard normal, (B, ...); the run starts from σ(t_0) times it.
        schedule: the `NoiseSchedule`.
        steps: number of steps, 1 … the schedule's own number.
        solver: a `Solver`; None: `DDIM()`.
        grid: a `TimeGrid`; None: `UniformGrid()`.
        seed: of a stochastic solver's noise, an integer of 0 or more.
        callback: called as callback(step, t, x_t, x0) after each step, with the time that was
            left, the samples there and their denoised estimate, as numpy arrays.
        indices: the samples' numbers, which say what noise each gets; None: 0 … B − 1.

    Returns:
        The samples at t = 0, a float32 tensor (B, ...).

    Raises:
        ValueError: if steps is below 1 or above the schedule's.
    """
    solver = solver or DDIM()

    def advance(x, here, there, state, step_noise):
        return take_step(denoise, solver, x, here, there, state, step_noise)

    indices = range(len(noise)) if indices is None else indices
    step_noise = HostNoise(seed, indices, noise.shape[1:], stream=1)
    return run(advance, noise, schedule, steps, solver, grid, step_noise, callback)


def take_step(denoise, solver, x, here, there, state, noise):
    """One step of a run, a pure function that can be compiled; `there` is None for the last one.

    Returns:
        The samples there, the solver's new state, and E[x0 | x] at `here`.
    """
    if there is None:
        x0 = denoise(x, here).x0
        return x0, state, x0
    estimates = []

    def watched(x_t, rates):
        estimates.append(denoise(x_t, rates))
        return estimates[-1]

    x, state = solver.step(watched, x, here, there, state, noise)
    return x, state, estimates[0].x0


def run(advance, noise, schedule, steps, solver, grid, step_noise, callback):
    """The loop over a run's steps; `advance` is `take_step` of some denoiser, compiled or not."""
    rates = _grid_rates(schedule, steps, grid)
    x = ops.convert_to_tensor(noise, "float32") * rates[0].sigma
    state = solver.init(x)
    for step, here in enumerate(rates):
        there = rates[step + 1] if step + 1 < len(rates) else None
        z = None
        if there is not None and solver.stochastic:
            z = ops.convert_to_tensor(step_noise.draw())
        before = x
        x, state, x0 = advance(x, here, there, state, z)
        if callback is not None:
            numpy = ops.convert_to_numpy
            callback(step, float(numpy(here.t)), numpy(before), numpy(x0))
    return x


def _grid_rates(schedule, steps, grid):
    """The rates of every time of a run but the last, 0, each a `Rates` of scalar tensors."""
    check_steps(steps, schedule)
    times = (grid or UniformGrid())(schedule, steps)
    table = [ops.convert_to_numpy(values) for values in schedule(times[:-1])]
    return [Rates(*map(ops.convert_to_tensor, row)) for row in zip(*table, strict=True)]


def check_steps(steps, schedule):
    """Raise ValueError unless a run of so many steps on that schedule makes sense."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps must be an integer of 1 or more. Received: steps={steps!r}")
    if schedule.steps is not None and steps > schedule.steps:
        raise ValueError(
            f"steps must be at most the schedule's {schedule.steps}. Received: steps={steps}"
        )
