"""Laws of keras_dit.schedules: tables against foreign ones, times, ends, grids."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import schedules
from keras_dit.schedules import (
    EDM,
    ArrayGrid,
    CosineBeta,
    KarrasGrid,
    LeadingGrid,
    LinearBeta,
    LinspaceGrid,
    LogSNRGrid,
    RectifiedFlow,
    RespacedGrid,
    ReversedFlow,
    ScaledLinearBeta,
    ShiftedGrid,
    UniformGrid,
    ZeroTerminalSNR,
)

GOLDENS = pathlib.Path(__file__).parent / "goldens"
TABLES = [LinearBeta(), ScaledLinearBeta(), CosineBeta(), ZeroTerminalSNR()]
SHORT = [LinearBeta(steps=1), LinearBeta(steps=7), CosineBeta(steps=50), LinearBeta(steps=333)]
EVERY = [*TABLES, *SHORT, RectifiedFlow(), RectifiedFlow(3.0), ReversedFlow(2.0)]
GRIDS = [
    UniformGrid(),
    LeadingGrid(),
    LeadingGrid(1),
    LinspaceGrid(),
    RespacedGrid("20"),
    ShiftedGrid(),
    LogSNRGrid(),
    KarrasGrid(),
    ArrayGrid(np.linspace(1, 0.05, 20)),
]
OF_TABLES = (LeadingGrid, LinspaceGrid, RespacedGrid)


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
    np.testing.assert_allclose(alpha, np.sqrt(signal), rtol=3e-7, atol=1e-9)
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
    assert (np.diff(sigma / alpha) > -2e-6 * (sigma / alpha)[1:]).all()
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
    "part",
    [*EVERY, *GRIDS, EDM(), LinearBeta(10, 0.001, 0.1), ZeroTerminalSNR(CosineBeta(20, 0.01, 0.9))],
    ids=str,
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
        lambda: RectifiedFlow(0.0),
        lambda: EDM(sigma_max=0.001),
        lambda: EDM(sigma_min=0.0),
        lambda: ShiftedGrid(-1.0),
        lambda: KarrasGrid(0.0),
        lambda: RespacedGrid("many"),
        lambda: RespacedGrid("10,0"),
        lambda: ArrayGrid([]),
        lambda: ArrayGrid([0.0]),
        lambda: ArrayGrid([0.5, 0.7]),
        lambda: ArrayGrid([0.7, 0.7]),
        lambda: ArrayGrid([1.1, 0.5]),
        lambda: ArrayGrid([0.5, -0.1]),
        lambda: ArrayGrid([0.5, float("nan")]),
    ],
)
def test_what_is_no_schedule_or_grid_is_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


def test_zero_terminal_snr_ends_without_signal_and_keeps_the_first_step():
    plain, rescaled = LinearBeta(), ZeroTerminalSNR(LinearBeta())
    root, new = np.sqrt(plain.alphas_cumprod()), np.sqrt(rescaled.alphas_cumprod())
    assert new[-1] == 0
    np.testing.assert_allclose(new[0], root[0], rtol=1e-12)
    # The move is linear: three points on a line.
    share = (root - root[-1]) / (root[0] - root[-1])
    np.testing.assert_allclose(new, share * root[0], atol=1e-12)
    assert ops.convert_to_numpy(rescaled(1.0).alpha) == 0


def test_a_shifted_flow_is_the_flow_at_shifted_times():
    t = np.linspace(0, 1, 21).astype("float32")
    shifted = 3 * t / (1 + 2 * t)
    _, alpha, sigma = at(RectifiedFlow(3.0), t)
    np.testing.assert_allclose(sigma, shifted, atol=2e-7)
    np.testing.assert_allclose(alpha, 1 - shifted, atol=2e-7)
    k = ops.convert_to_numpy(RectifiedFlow(3.0).timestep(t))
    np.testing.assert_allclose(k, 1000 * shifted, rtol=3e-7)
    snr = alpha[1:] / sigma[1:] * 3  # a shift divides the ratio of signal to noise
    np.testing.assert_allclose(snr[:-1], ((1 - t) / t.clip(1e-9))[1:-1], rtol=1e-5)


def test_edm_adds_noise_up_to_its_end_and_leaves_the_data():
    schedule = EDM()
    t = np.linspace(0, 1, 101)
    _, alpha, sigma = at(schedule, t)
    np.testing.assert_array_equal(alpha, 1)
    assert sigma[0] == 0
    np.testing.assert_allclose(sigma[-1], 80, rtol=2e-5)
    assert (np.diff(sigma) > 0).all()
    least = float(ops.convert_to_numpy(schedule(schedule.least_time).sigma))
    np.testing.assert_allclose(least, 0.002, rtol=1e-5)
    k = ops.convert_to_numpy(schedule.timestep(t[1:]))
    np.testing.assert_allclose(k, np.log(sigma[1:]) / 4, atol=1e-5)
    assert np.isfinite(ops.convert_to_numpy(schedule.timestep(schedule.snap(0.0))))


def test_the_logit_of_edms_time_is_the_logarithm_of_its_noise():
    """So `LogitNormalTimes(-1.2, 1.2)` draws σ as Karras et al. do: here up to six deviations."""
    t = 1 / (1 + np.exp(-np.linspace(-7, 1, 50)))
    _, _, sigma = at(EDM(), t)
    np.testing.assert_allclose(np.log(sigma), np.linspace(-7, 1, 50), atol=0.06)


# Grids


@pytest.mark.parametrize(
    "schedule", [*TABLES, LinearBeta(steps=50), RectifiedFlow(), RectifiedFlow(3.0), EDM()], ids=str
)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_falls_to_0(grid, schedule):
    if schedule.steps is None and isinstance(grid, OF_TABLES):
        with pytest.raises(ValueError, match="needs a schedule with a table"):
            grid(schedule, 20)
        return
    times = grid(schedule, 20)
    assert times.shape == (21,)
    assert times.dtype == np.float32
    assert times[-1] == 0
    assert times[0] <= 1
    assert (np.diff(times) < 0).all()


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


@pytest.mark.parametrize(
    "grid, steps, k",
    # diffusers 0.42.1, DDPMScheduler(timestep_spacing=..., steps_offset=...).set_timesteps(steps)
    [
        (UniformGrid(), 7, [999, 856, 713, 570, 428, 285, 142]),
        (LeadingGrid(), 7, [852, 710, 568, 426, 284, 142, 0]),
        (LeadingGrid(1), 7, [853, 711, 569, 427, 285, 143, 1]),
        (LinspaceGrid(), 7, [999, 832, 666, 500, 333, 166, 0]),
        (LinspaceGrid(), 4, [999, 666, 333, 0]),
    ],
)
def test_grids_on_a_table_are_the_spacings_of_diffusers(grid, steps, k):
    times = grid(LinearBeta(), steps)[:-1]
    np.testing.assert_array_equal(ops.convert_to_numpy(LinearBeta().timestep(times)), k)


@pytest.mark.parametrize("sections, name", [("10", "ddpm10_small"), ("ddim10", "ddim10_eta0")])
def test_respacing_is_the_published_one(sections, name):
    k = golden("gaussian_diffusion.npz")[f"{name}/timesteps"]
    times = RespacedGrid(sections)(LinearBeta(), 10)[:-1]
    np.testing.assert_array_equal(ops.convert_to_numpy(LinearBeta().timestep(times)), k)


def test_respacing_takes_its_sections_apart():
    """Nichol and Dhariwal's example: of 300 steps 10, 15 and 20 from the three hundreds."""
    grid = RespacedGrid("10,15,20")
    assert grid.steps == 45
    schedule = LinearBeta(steps=300)
    k = ops.convert_to_numpy(schedule.timestep(grid(schedule, 45)[:-1]))[::-1]
    assert [np.sum((k >= low) & (k < low + 100)) for low in (0, 100, 200)] == [10, 15, 20]
    assert set(k) >= {0, 99, 100, 199, 200, 299}
    with pytest.raises(ValueError, match="no stride"):
        RespacedGrid("ddim999")(LinearBeta(), 999)
    with pytest.raises(ValueError, match="too few"):
        RespacedGrid("60,1")(LinearBeta(steps=100), 61)


@pytest.mark.parametrize("schedule", [LinearBeta(), CosineBeta(), EDM()], ids=str)
def test_the_log_snr_grid_is_uniform_in_log_snr(schedule):
    _, alpha, sigma = at(schedule, LogSNRGrid()(schedule, 12)[:-1])
    gaps = np.diff(np.log(sigma / alpha))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=2e-3)


def test_karras_grid_on_edm_is_that_of_the_paper():
    i = np.arange(18)
    root = 80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    _, _, sigma = at(EDM(), KarrasGrid()(EDM(), 18)[:-1])
    np.testing.assert_allclose(sigma, root**7, rtol=3e-5)


def test_grids_through_a_flow_start_at_pure_noise():
    for grid in (LogSNRGrid(), KarrasGrid()):
        times = grid(RectifiedFlow(), 10)
        assert times[0] == 1
        np.testing.assert_allclose(times[-2], 1e-3, rtol=1e-4)


def test_the_shifted_grid_is_the_uniform_grid_of_a_shifted_flow():
    times = ShiftedGrid(3.0)(RectifiedFlow(), 10)
    _, _, sigma = at(RectifiedFlow(3.0), UniformGrid()(RectifiedFlow(3.0), 10))
    np.testing.assert_allclose(times, sigma, atol=2e-7)
    foreign = golden("diffusers_schedulers.npz")["flow_shift3/sigmas"]
    np.testing.assert_allclose(times, foreign, atol=2e-7)


def test_an_array_is_a_grid_with_or_without_its_0():
    for times in ([0.9, 0.5, 0.2], (0.9, 0.5, 0.2, 0.0), np.array([0.9, 0.5, 0.2, 0])):
        grid = ArrayGrid(times)
        assert grid.steps == 3
        np.testing.assert_allclose(grid(RectifiedFlow(), 3), [0.9, 0.5, 0.2, 0.0])


def test_the_uniform_grid_is_trailing_spacing_of_diffusers():
    k = golden("diffusers_schedulers.npz")["ddim_epsilon/timesteps"]
    times = UniformGrid()(LinearBeta(), 20)[:-1]
    np.testing.assert_array_equal(ops.convert_to_numpy(LinearBeta().timestep(times)), k)


def test_the_uniform_grid_of_a_flow_is_uniform():
    np.testing.assert_allclose(UniformGrid()(RectifiedFlow(), 8), np.linspace(1, 0, 9), atol=1e-7)


def test_sections_are_rounded_as_the_published_program_rounds():
    """Numbers of facebookresearch/DiT; more of them by scripts/compare_respacing.py."""
    taken = [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    taken += [100, 107, 114, 121, 128, 135, 142, 149, 157, 164, 171, 178, 185, 192, 199]
    taken += [200, 205, 210, 216, 221, 226, 231, 236, 242, 247]
    taken += [252, 257, 263, 268, 273, 278, 283, 289, 294, 299]
    times = schedules.RespacedGrid("10,15,20")(LinearBeta(steps=300), 45)[:-1]
    np.testing.assert_array_equal(np.round(times * 300)[::-1] - 1, taken)
