"""Laws of keras_dit.schedules: tables against foreign ones, times, ends, grids."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import schedules
from keras_dit.schedules import CosineBeta, LinearBeta, RectifiedFlow, ScaledLinearBeta, UniformGrid

GOLDENS = pathlib.Path(__file__).parent / "goldens"
TABLES = [LinearBeta(), ScaledLinearBeta(), CosineBeta()]
SHORT = [LinearBeta(steps=1), LinearBeta(steps=7), CosineBeta(steps=50), LinearBeta(steps=333)]
EVERY = [*TABLES, *SHORT, RectifiedFlow()]


def golden(name):
    return np.load(GOLDENS / name)


def at(schedule, t):
    """t, alpha and sigma as float64 numpy."""
    return [ops.convert_to_numpy(value).astype("float64") for value in schedule(t)]


def step_times(schedule):
    return (np.arange(schedule.steps) + 1) / schedule.steps


@pytest.mark.parametrize("name, schedule", [("linear", LinearBeta()), ("cosine", CosineBeta())])
def test_tables_are_the_published_ones(name, schedule):
    published = golden("gaussian_diffusion.npz")[f"{name}/alphas_cumprod"]
    np.testing.assert_allclose(schedule.alphas_cumprod(), published, rtol=1e-11)


@pytest.mark.parametrize(
    "name, schedule, tolerance",
    # diffusers takes the product in float32; see goldens/README.md.
    [
        ("linear", LinearBeta(), 1e-6),
        ("scaled_linear", ScaledLinearBeta(), 1e-6),
        ("squaredcos_cap_v2", CosineBeta(), 1.5e-5),
    ],
)
def test_tables_are_those_of_diffusers(name, schedule, tolerance):
    foreign = golden("diffusers_schedulers.npz")[f"ddpm/{name}/alphas_cumprod"]
    np.testing.assert_allclose(schedule.alphas_cumprod(), foreign, rtol=tolerance)


@pytest.mark.parametrize("schedule", TABLES + SHORT, ids=str)
def test_the_rates_at_a_step_are_the_table(schedule):
    _, alpha, sigma = at(schedule, step_times(schedule))
    signal = schedule.alphas_cumprod()
    np.testing.assert_allclose(alpha, np.sqrt(signal), rtol=3e-7)
    np.testing.assert_allclose(sigma, np.sqrt(1 - signal), rtol=3e-7)


@pytest.mark.parametrize("schedule", TABLES + SHORT, ids=str)
def test_a_table_preserves_the_variance_at_any_time(schedule):
    t = np.random.default_rng(0).uniform(0, 1, 2000)
    _, alpha, sigma = at(schedule, t)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=3e-7)


def test_between_two_steps_the_rates_lie_between_theirs():
    schedule = LinearBeta(steps=20)
    t = step_times(schedule)
    _, low, _ = at(schedule, t[1:])
    _, high, _ = at(schedule, t[:-1])
    _, middle, _ = at(schedule, (t[1:] + t[:-1]) / 2)
    assert (low < middle).all()
    assert (middle < high).all()


@pytest.mark.parametrize("schedule", TABLES + SHORT, ids=str)
def test_step_k_is_exactly_k(schedule):
    times = step_times(schedule)
    for t in (times, times.astype("float32")):
        k = ops.convert_to_numpy(schedule.timestep(t))
        np.testing.assert_array_equal(k, np.arange(schedule.steps, dtype="float32"))


def test_a_time_between_steps_is_a_fractional_timestep():
    k = ops.convert_to_numpy(LinearBeta().timestep(np.array([0.5005, 0.25025])))
    np.testing.assert_allclose(k, [499.5, 249.25], atol=1e-4)


@pytest.mark.parametrize("schedule", TABLES + SHORT, ids=str)
def test_snap_gives_the_next_step_up_and_leaves_steps_alone(schedule):
    times = step_times(schedule).astype("float32")
    again = schedule.snap(times)
    np.testing.assert_allclose(ops.convert_to_numpy(again), times, rtol=1.5e-7)  # a last digit
    k = ops.convert_to_numpy(schedule.timestep(again))
    np.testing.assert_array_equal(k, np.arange(schedule.steps))
    t = np.random.default_rng(1).uniform(0, 1, 500)
    snapped = ops.convert_to_numpy(schedule.snap(t))
    position = snapped.astype("float64") * schedule.steps
    np.testing.assert_allclose(position, np.round(position), atol=1e-4)
    gap = position - t * schedule.steps
    assert gap.min() >= -1.1e-3  # a thousandth of a step is rounding
    assert gap.max() <= 1.0 + 1e-4


def test_snapped_uniform_times_take_every_step_equally_often():
    schedule = LinearBeta(steps=10)
    t = (np.arange(5000) + 0.5) / 5000
    k = ops.convert_to_numpy(schedule.timestep(schedule.snap(t))).astype(int)
    counts = np.bincount(k, minlength=10)
    assert counts.min() >= 490
    assert counts.max() <= 510
    assert ops.convert_to_numpy(schedule.snap(0.0)) == np.float32(0.1)


def test_continuous_time_is_not_snapped():
    t = np.random.default_rng(2).uniform(0, 1, 50).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(RectifiedFlow().snap(t)), t)


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_signal_falls_and_noise_grows(schedule):
    t = np.linspace(0, 1, 20 * (schedule.steps or 50) + 1)[1:-1]
    _, alpha, sigma = at(schedule, t)
    assert (np.diff(sigma / alpha) > -1e-6 * (sigma / alpha)[1:]).all()
    _, alpha, sigma = at(schedule, np.linspace(0, 1, min(100, schedule.steps or 100) + 1))
    assert (np.diff(alpha) < 0).all()
    assert (np.diff(sigma) > 0).all()


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_time_0_is_data(schedule):
    t, alpha, sigma = at(schedule, 0.0)
    assert (t, alpha, sigma) == (0, 1, 0)


def test_rectified_flow_is_the_straight_line():
    t = np.linspace(0, 1, 11).astype("float32")
    time, alpha, sigma = at(RectifiedFlow(), t)
    np.testing.assert_array_equal(time, t)
    np.testing.assert_array_equal(sigma, t)
    np.testing.assert_allclose(alpha, 1 - t.astype("float64"), atol=1e-7)
    np.testing.assert_array_equal(ops.convert_to_numpy(RectifiedFlow().timestep(t)), t * 1000)


@pytest.mark.parametrize("schedule", EVERY, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_rates_are_float32_of_the_shape_of_t(schedule, shape):
    for value in schedule(np.full(shape, 0.37)):
        assert tuple(value.shape) == shape
        assert keras.backend.standardize_dtype(value.dtype) == "float32"


def test_broadcast_makes_rates_multiply_samples():
    rates = RectifiedFlow()(np.array([0.25, 0.5], "float32"))
    x = np.ones((2, 3, 4, 1), "float32")
    wide = schedules.broadcast(rates, x)
    assert tuple(wide.sigma.shape) == (2, 1, 1, 1)
    scaled = ops.convert_to_numpy(wide.sigma * ops.convert_to_tensor(x))
    np.testing.assert_array_equal(scaled[:, 0, 0, 0], [0.25, 0.5])
    scalar = RectifiedFlow()(0.3)
    assert schedules.broadcast(scalar, x) is scalar


@pytest.mark.parametrize(
    "part", [*EVERY, UniformGrid(), LinearBeta(10, 0.001, 0.1), CosineBeta(20, 0.01, 0.9)], ids=str
)
def test_configurations_round_trip(part):
    config = keras.saving.serialize_keras_object(part)
    again = keras.saving.deserialize_keras_object(config)
    assert again == part
    assert hash(again) == hash(part)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearBeta(steps=0),
        lambda: LinearBeta(end=1.5),
        lambda: LinearBeta(start=0.0),
        lambda: ScaledLinearBeta(start=0.0),
        lambda: CosineBeta(steps=-3),
        lambda: CosineBeta(largest=1.0),
    ],
)
def test_tables_that_are_none_are_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


@pytest.mark.parametrize("schedule", TABLES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 250, 999, 1000])
def test_the_uniform_grid_falls_from_1_to_0_through_steps_of_the_table(schedule, steps):
    times = UniformGrid()(schedule, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float32
    assert times[0] == 1
    assert times[-1] == 0
    assert (np.diff(times) < 0).all()
    k = ops.convert_to_numpy(schedule.timestep(times[:-1]))
    np.testing.assert_array_equal(k, np.round(k))
    gaps = -np.diff(times)
    assert gaps.max() - gaps.min() <= 1.001 / schedule.steps


def test_the_uniform_grid_is_trailing_spacing_of_diffusers():
    k = golden("diffusers_schedulers.npz")["ddim_epsilon/timesteps"]
    times = UniformGrid()(LinearBeta(), 20)[:-1]
    np.testing.assert_array_equal(ops.convert_to_numpy(LinearBeta().timestep(times)), k)


def test_the_uniform_grid_of_a_flow_is_uniform():
    np.testing.assert_allclose(UniformGrid()(RectifiedFlow(), 8), np.linspace(1, 0, 9), atol=1e-7)
