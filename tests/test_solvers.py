"""Laws of keras_dit.solvers: foreign step-by-step goldens, exactness, the moments of the data."""

import itertools
import pathlib

import keras
import numpy as np
import pytest
from closed_form import SCHEDULES, denoise, noisy, run
from keras import ops

from keras_dit import Denoised, Diffusion, DiTModel, Rates, backend, guidance, predictions, solvers
from keras_dit.schedules import LinearBeta, RectifiedFlow

GOLDENS = pathlib.Path(__file__).parent / "goldens"
SOLVERS = [
    solvers.DDPM(),
    solvers.DDPM(1.0),
    solvers.DDIM(),
    solvers.DDIM(0.4),
    solvers.DDIM(1.0),
    solvers.Euler(),
    solvers.EulerAncestral(),
    solvers.EulerMaruyama(0.0),
    solvers.EulerMaruyama(),
    solvers.Heun(),
    solvers.Midpoint(),
    solvers.DPMSolverPP2M(),
    solvers.DPMSolverPP3M(),
    solvers.DPMSolverPP2MSDE(),
    solvers.UniPC(1),
    solvers.UniPC(2),
    solvers.UniPC(3),
    solvers.LCM(),
]
DETERMINISTIC = [solver for solver in SOLVERS if not solver.stochastic]
STOCHASTIC = [solver for solver in SOLVERS if solver.stochastic]
# Not these: one has the variance of the forward step, one is for consistency models, and the
# diffusion of the last is discretised.
EXACT_NOISE = [
    solver
    for solver in STOCHASTIC
    if solver not in (solvers.DDPM(1.0), solvers.LCM(), solvers.EulerMaruyama())
]


def golden(file, case):
    arrays = np.load(GOLDENS / file)
    return {key.split("/")[1]: arrays[key] for key in arrays.files if key.startswith(f"{case}/")}


def channels_last(x):
    """(steps, N, C, H, W) -> (steps, N, H, W, C)"""
    return np.moveaxis(x, 2, -1)


def scalar_rates(schedule, times):
    """Rates of scalar tensors."""
    return [
        Rates(*map(ops.convert_to_tensor, row))
        for row in zip(*map(ops.convert_to_numpy, schedule(np.asarray(times, "float32"))))
    ]


def replay(case, solver, prediction, rates, guide=None):
    """The samples after each step of a run whose network outputs and noise are given.

    Each step starts from the foreign sample, so that what is compared is the step, not the sum
    of both sides' rounding. As in a real run the last step is the denoiser itself.
    """
    outputs = iter(case["outputs"])
    guide = guide or guidance.Unguided()

    def denoiser(x, here, condition):
        return prediction.denoised(ops.convert_to_tensor(next(outputs)), x, here)

    denoise = guide(denoiser, None)
    x = ops.convert_to_tensor(case["x_T"])
    state, trail = solver.init(x), []
    for i, here in enumerate(rates[:-1]):
        noise = ops.convert_to_tensor(case["noise"][i]) if solver.stochastic else None
        x, state = solver.step(denoise, x, here, rates[i + 1], state, noise)
        trail.append(ops.convert_to_numpy(x))
        x = ops.convert_to_tensor(case["x"][i])
    trail.append(ops.convert_to_numpy(denoise(x, rates[-1]).x0))
    return np.stack(trail)


def assert_agrees(trail, foreign, tolerance=5e-5):
    """Every step, relative to max(1, |x|)."""
    error = np.abs(trail - foreign) / np.maximum(1.0, np.abs(foreign))
    assert error.max() < tolerance


def published(name):
    case = golden("gaussian_diffusion.npz", name)
    for key in ("outputs", "noise", "x"):
        case[key] = channels_last(case[key])
    case["x_T"] = np.moveaxis(case["x_T"], 1, -1)
    return case, scalar_rates(LinearBeta(), (case["timesteps"] + 1) / 1000)


CLIPPED = guidance.Clipped(guidance.Unguided())


@pytest.mark.parametrize(
    "name, solver, prediction, guide",
    [
        ("ddpm10_learned", solvers.DDPM(), predictions.LearnedVariance(), None),
        ("ddpm10_learned_clip", solvers.DDPM(), predictions.LearnedVariance(), CLIPPED),
        ("ddpm10_small", solvers.DDPM(0.0), predictions.Noise(), None),
        ("ddpm10_large", solvers.DDPM(1.0), predictions.Noise(), None),
        ("ddim10_eta0", solvers.DDIM(), predictions.Noise(), None),
        ("ddim10_eta0_clip", solvers.DDIM(), predictions.Noise(), CLIPPED),
        ("ddim10_eta07", solvers.DDIM(0.7), predictions.Noise(), None),
    ],
)
def test_steps_are_those_of_the_published_loops(name, solver, prediction, guide):
    case, rates = published(name)
    assert_agrees(replay(case, solver, prediction, rates, guide), case["x"])


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Euler()], ids=str)
@pytest.mark.parametrize(
    "kind, prediction",
    [
        ("epsilon", predictions.Noise()),
        ("v_prediction", predictions.V()),
        ("sample", predictions.CleanSample()),
    ],
)
def test_ddim_is_that_of_diffusers(kind, prediction, solver):
    case = golden("diffusers_schedulers.npz", f"ddim_{kind}")
    rates = scalar_rates(LinearBeta(), (case["timesteps"] + 1) / 1000)
    assert_agrees(replay(case, solver, prediction, rates), case["x"])


def sigma_rates(sigmas):
    """Rates of alpha = 1, for schedulers whose sample is x_t / alpha."""
    return [
        Rates(sigma, ops.ones_like(sigma), sigma)
        for sigma in map(ops.convert_to_tensor, sigmas[:-1])
    ]


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Euler()], ids=str)
def test_euler_is_that_of_diffusers(solver):
    case = golden("diffusers_schedulers.npz", "euler")
    trail = replay(case, solver, predictions.Noise(), sigma_rates(case["sigmas"]))
    assert_agrees(trail, case["x"])


@pytest.mark.parametrize("name", ["flow", "flow_shift3"])
@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Euler()], ids=str)
def test_euler_on_a_flow_is_that_of_diffusers(name, solver):
    case = golden("diffusers_schedulers.npz", name)
    rates = scalar_rates(RectifiedFlow(), case["sigmas"][:-1])
    assert_agrees(replay(case, solver, predictions.FlowVelocity(), rates), case["x"])


@pytest.mark.parametrize(
    "name, solver",
    [
        ("ddpm_small", solvers.DDPM()),
        ("ddpm_large", solvers.DDPM(1.0)),
        ("ddpm_small", solvers.DDIM(1.0)),
        ("dpmpp_2m", solvers.DPMSolverPP2M()),
        ("dpmpp_2m_sde", solvers.DPMSolverPP2MSDE()),
        ("unipc_2", solvers.UniPC(2)),
        ("unipc_3", solvers.UniPC(3)),
    ],
)
def test_steps_on_a_table_are_those_of_diffusers(name, solver):
    """Trailing spacing, no clipping, midpoint and B₂(h) variants: diffusers' defaults but one.

    Its lower_order_final takes UniPC-3's last step but one at second order; ours does not know
    which step that is. With fixed_large and trailing spacing it adds noise to the finished
    sample, since that step starts at k = 49 and not at 0; ours ends with the denoiser.
    """
    case = golden("diffusers_solvers.npz", name)
    rates = scalar_rates(LinearBeta(), (case["timesteps"] + 1) / 1000)
    trail, foreign = replay(case, solver, predictions.CleanSample(), rates), case["x"]
    odd = {"unipc_3": [-2], "ddpm_large": [-1]}.get(name, [])
    assert_agrees(np.delete(trail, odd, axis=0), np.delete(foreign, odd, axis=0))


@pytest.mark.parametrize(
    "name, solver",
    [
        ("dpmpp_2m_flow", solvers.DPMSolverPP2M()),
        ("unipc_2_flow", solvers.UniPC(2)),
        ("unipc_3_flow", solvers.UniPC(3)),
    ],
)
def test_steps_on_a_flow_are_those_of_diffusers(name, solver):
    """use_flow_sigmas with flow_shift 1; its run starts at t = 0.999, so at a finite λ."""
    case = golden("diffusers_solvers.npz", name)
    rates = scalar_rates(RectifiedFlow(), case["sigmas"][:-1])
    trail, foreign = replay(case, solver, predictions.FlowVelocity(), rates), case["x"]
    if name == "unipc_3_flow":
        trail, foreign = np.delete(trail, -2, axis=0), np.delete(foreign, -2, axis=0)
    assert_agrees(trail, foreign)


@pytest.mark.parametrize("solver", [solvers.EulerAncestral(), solvers.DDPM()], ids=str)
def test_euler_ancestral_is_that_of_diffusers(solver):
    case = golden("diffusers_solvers.npz", "euler_ancestral")
    trail = replay(case, solver, predictions.Noise(), sigma_rates(case["sigmas"]))
    assert_agrees(trail, case["x"])


def test_heun_takes_its_two_looks_where_diffusers_takes_them():
    """Both correct an Euler step by the mean of two slopes, in coordinates of their own.

    diffusers' slope is d(x / α) / d(σ / α), ours d(x / (α + σ)) / d(σ / (α + σ)): the predictor
    is the same, the correction agrees to third order. So the first look is compared exactly and
    the second with what each coordinate system makes of the same two estimates.
    """
    case = golden("diffusers_schedulers.npz", "heun")
    sigmas, noise = case["sigmas"].astype("float64"), case["outputs"].astype("float64")
    x = case["x_T"].astype("float64")
    one = np.float64(1.0)
    for i in range(0, 18, 2):
        here, there = Rates(0.0, one, sigmas[i]), Rates(0.0, one, sigmas[i + 1])
        looks = []

        def look(x_t, rates, looks=looks, i=i):
            looks.append(x_t)
            return Denoised(x_t - rates.sigma * noise[i + len(looks) - 1])

        ours, _ = solvers.Heun().step(look, x, here, there, None, None)
        assert_agrees(looks[1], case["x"][i], 5e-6)
        # x0 of each look, then the trapezoidal rule in u = σ / (1 + σ) for y = x / (1 + σ).
        first, second = x - here.sigma * noise[i], looks[1] - there.sigma * noise[i + 1]
        u, v = here.sigma / (1 + here.sigma), there.sigma / (1 + there.sigma)
        slopes = (x / (1 + here.sigma) - first) / u + (looks[1] / (1 + there.sigma) - second) / v
        expected = (x / (1 + here.sigma) + (v - u) / 2 * slopes) * (1 + there.sigma)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
        x = case["x"][i + 1].astype("float64")


def numpy_rates(name, times):
    return [SCHEDULES[name](np.float64(t)) for t in times]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=str)
def test_a_denoiser_that_never_changes_its_mind_is_followed_exactly(solver, schedule):
    """With a constant x0 the noise of x is kept whatever the steps."""
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 5, 3))
    rates = numpy_rates(schedule, [0.97, 0.7, 0.4, 0.35, 0.02])
    x = rates[0].alpha * x0 + rates[0].sigma * noise
    x = run(solver, x, rates, denoise=lambda x, rates: Denoised(x0))
    np.testing.assert_allclose(x, rates[-1].alpha * x0 + rates[-1].sigma * noise, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", EXACT_NOISE, ids=str)
def test_a_stochastic_solver_keeps_the_power_of_the_noise(solver, schedule):
    """With a constant x0 what is left after any step is noise of deviation σ."""
    x0 = np.array([[1.5, -0.5]])
    rates = numpy_rates(schedule, [0.97, 0.7, 0.4, 0.35, 0.02])
    noise = np.random.default_rng(0).standard_normal((50_000, 2))
    x = run(
        solver, rates[0].alpha * x0 + rates[0].sigma * noise, rates, 1, lambda x, r: Denoised(x0)
    )
    left = (x - rates[-1].alpha * x0) / rates[-1].sigma
    np.testing.assert_allclose(left.mean(axis=0), 0.0, atol=0.022)  # five standard errors
    np.testing.assert_allclose(np.cov(left.T), np.eye(2), atol=0.032)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_at_eta_1_is_ddpm(schedule):
    rates = numpy_rates(schedule, [0.97, 0.7, 0.4, 0.05])
    x = noisy(rates[0], 50, seed=0)
    np.testing.assert_allclose(
        run(solvers.DDIM(1.0), x, rates, seed=1), run(solvers.DDPM(), x, rates, seed=1), atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_and_ddim_are_the_same_step(schedule):
    rates = numpy_rates(schedule, [0.97, 0.7, 0.4, 0.05])
    x = noisy(rates[0], 50, seed=0)
    np.testing.assert_allclose(
        run(solvers.Euler(), x, rates), run(solvers.DDIM(), x, rates), atol=1e-12
    )


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_variance_of_ddpm_lies_between_its_bounds_in_logarithms(fraction):
    here, there = numpy_rates("vp", [0.6, 0.45])
    x, x0 = np.zeros((1, 1)), np.zeros((1, 1))
    one = np.ones((1, 1))
    given, _ = solvers.DDPM(fraction).step(lambda x, r: Denoised(x0), x, here, there, None, one)
    learned, _ = solvers.DDPM().step(
        lambda x, r: Denoised(x0, fraction * one), x, here, there, None, one
    )
    beta = 1 - (here.alpha / there.alpha) ** 2
    posterior = beta * there.sigma**2 / here.sigma**2
    expected = beta**fraction * posterior ** (1 - fraction)
    np.testing.assert_allclose(given**2, expected, rtol=1e-12)
    np.testing.assert_allclose(learned**2, expected, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_run_may_start_where_there_is_no_signal(solver):
    rates = numpy_rates("flow", [1.0, 0.6, 0.3, 0.2, 0.1])
    x = np.random.default_rng(0).standard_normal((20, 2))
    with np.errstate(divide="ignore"):  # λ = −∞
        assert np.isfinite(run(solver, x, rates)).all()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_step_calls_the_denoiser_as_often_as_it_says(solver):
    calls = []

    def counted(x, rates):
        calls.append(rates.t)
        return denoise(x, rates)

    rates = numpy_rates("vp", [0.9, 0.7, 0.5, 0.4])
    run(solver, noisy(rates[0], 3, seed=0), rates, denoise=counted)
    assert len(calls) == 3 * solver.evaluations
    assert calls[0] == 0.9
    assert calls[-1] == (0.5 if solver.evaluations == 1 else 0.4)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_configurations_round_trip(solver):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(solver))
    assert again == solver
    assert hash(again) == hash(solver)


@pytest.mark.parametrize(
    "make",
    [
        lambda: solvers.DDIM(-0.1),
        lambda: solvers.DDIM(1.1),
        lambda: solvers.DDIM(float("nan")),
        lambda: solvers.DDPM(-1.0),
        lambda: solvers.DDPM(1.01),
        lambda: solvers.EulerAncestral(2.0),
        lambda: solvers.EulerMaruyama(-1.0),
        lambda: solvers.EulerMaruyama(float("nan")),
        lambda: solvers.UniPC(4),
        lambda: solvers.UniPC(0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_state_has_one_structure_from_the_start(solver):
    x = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((2, 3)).astype("float32"))
    rates = scalar_rates(RectifiedFlow(), [1.0, 0.7, 0.4, 0.2, 0.1])
    state = solver.init(x)

    def form(state):
        form, numbers = backend.partition(state)
        return form, [(tuple(n.shape), keras.backend.standardize_dtype(n.dtype)) for n in numbers]

    first = form(state)
    for here, there in itertools.pairwise(rates):
        noise = ops.ones_like(x) if solver.stochastic else None
        x, state = solver.step(lambda x, rates: Denoised(0.5 * x), x, here, there, state, noise)
        assert form(state) == first


def test_whether_a_solver_is_reversible_is_declared():
    reversible = {str(solver) for solver in SOLVERS if solver.reversible}
    assert reversible == {
        str(s) for s in SOLVERS if not s.stochastic and s.init(np.zeros(1)) is None
    }


def test_euler_ancestral_is_ddim_by_another_name_and_its_files_load():
    assert solvers.EulerAncestral() == solvers.DDIM(1.0)
    old = {
        "module": "keras_dit.solvers.ddim",
        "class_name": "EulerAncestral",
        "config": {"eta": 0.4},
        "registered_name": "keras_dit>EulerAncestral",
    }
    assert keras.saving.deserialize_keras_object(old) == solvers.DDIM(0.4)


@pytest.fixture(scope="module")
def diffusion():
    keras.utils.set_random_seed(0)
    made = Diffusion(DiTModel((4, 4, 1), 2, 8, 1, 2))
    final = made.network.final.projection  # which is 0 at first, and then says nothing
    final.kernel.assign(keras.random.normal(final.kernel.shape, 0.0, 0.3, seed=1))
    return made


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_run_is_the_same_compiled_or_not(diffusion, solver):
    how = {"num_images": 1, "steps": 4, "solver": solver}
    compiled, plain = (diffusion.generate(**how, jit_compile=jit) for jit in ("auto", False))
    assert np.ptp(plain) > 0.1
    np.testing.assert_allclose(compiled, plain, atol=1e-4)
