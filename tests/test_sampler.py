"""Laws of keras_dit.sampler, the only loop, and of `Diffusion.generate`, which runs it."""

import functools
import itertools

import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import Denoised, Denoiser, guidance, sampler, schedules, solvers
from keras_dit.schedules import LinearBeta, RectifiedFlow

SHAPE = (4, 4, 1)


def noise(count=3, seed=0):
    return sampler.initial_noise(seed, range(count), SHAPE)


def shrink(x, rates):
    """A denoiser: data of deviation 0.5 about 0."""
    gain = 0.25 * rates.alpha / (0.25 * rates.alpha**2 + rates.sigma**2)
    return Denoised(gain * x)


def sample(denoise=shrink, x=None, schedule=None, **settings):
    x = noise() if x is None else x
    return ops.convert_to_numpy(sampler.sample(denoise, x, schedule or LinearBeta(), **settings))


# The noise


def test_a_samples_noise_depends_on_nothing_but_seed_index_and_stream():
    whole = sampler.HostNoise(3, range(5), SHAPE, stream=1)
    part = sampler.HostNoise(3, [4, 2], SHAPE, stream=1)
    for _ in range(3):
        both = whole.draw(), part.draw()
        np.testing.assert_array_equal(both[0][[4, 2]], both[1])


def test_noise_is_standard_normal_and_never_twice_the_same():
    draws = [
        sampler.HostNoise(seed, range(50), (100,), stream=stream)
        for seed in (0, 1)
        for stream in (0, 1)
    ]
    blocks = np.concatenate([g.draw() for g in draws for _ in range(2)])  # (400, 100)
    assert blocks.dtype == np.float32
    correlation = np.corrcoef(blocks)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 0.6  # six standard deviations
    assert abs(blocks.mean()) < 0.02
    assert abs(blocks.std() - 1) < 0.02


def test_noise_is_numpys_philox_and_so_the_same_on_every_backend():
    """The first numbers of Philox(key=[seed, index]), written down from numpy itself."""
    expected = np.random.Generator(np.random.Philox(key=[7, 2])).standard_normal(4, "float32")
    np.testing.assert_array_equal(sampler.initial_noise(7, [2], (4,))[0], expected)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, "0"])
def test_a_seed_that_is_no_natural_number_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        sampler.initial_noise(seed, range(2), SHAPE)


# The loop


def test_the_last_step_is_the_denoiser():
    seen = []
    result = sample(steps=4, callback=lambda *call: seen.append(call))
    step, t, x_t, x0 = seen[-1]
    assert (step, t) == (3, 0.25)
    np.testing.assert_array_equal(result, x0)
    rates = LinearBeta()(0.25)
    expected = ops.convert_to_numpy(shrink(ops.convert_to_tensor(x_t), rates).x0)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_one_step_is_the_denoiser_at_pure_noise():
    rates = RectifiedFlow()(1.0)
    expected = ops.convert_to_numpy(shrink(ops.convert_to_tensor(noise()), rates).x0)
    for solver in (solvers.DDIM(), solvers.DDPM(), solvers.Heun()):
        result = sample(schedule=RectifiedFlow(), steps=1, solver=solver)
        np.testing.assert_array_equal(result, expected)


def test_a_run_is_its_steps():
    """The loop against the same run written out."""
    times = [1.0, 0.75, 0.5, 0.25]
    rates = [LinearBeta()(t) for t in times]
    x = ops.convert_to_tensor(noise()) * rates[0].sigma
    steps_noise = sampler.HostNoise(5, range(3), SHAPE, stream=1)
    for here, there in itertools.pairwise(rates):
        z = ops.convert_to_tensor(steps_noise.draw())
        x, _ = solvers.DDPM().step(shrink, x, here, there, None, z)
    expected = ops.convert_to_numpy(shrink(x, rates[-1]).x0)
    result = sample(steps=4, solver=solvers.DDPM(), seed=5)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.DDIM(0.5), solvers.Heun()], ids=str)
def test_the_callback_sees_time_samples_and_estimate_before_each_step(solver):
    seen = []
    sample(steps=5, solver=solver, callback=lambda *call: seen.append(call))
    assert [call[0] for call in seen] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose([call[1] for call in seen], [1.0, 0.8, 0.6, 0.4, 0.2], atol=1e-6)
    np.testing.assert_allclose(seen[0][2], noise(), rtol=1e-4)
    for _, t, x_t, x0 in seen:
        assert isinstance(t, float)
        assert isinstance(x_t, np.ndarray)
        expected = shrink(ops.convert_to_tensor(x_t), LinearBeta()(t)).x0
        np.testing.assert_allclose(x0, ops.convert_to_numpy(expected), atol=1e-5)


def test_samples_do_not_depend_on_those_beside_them():
    whole = sample(x=noise(4), steps=6, solver=solvers.DDPM(), seed=2)
    part = sample(x=noise(4)[[3, 1]], steps=6, solver=solvers.DDPM(), seed=2, indices=[3, 1])
    np.testing.assert_allclose(whole[[3, 1]], part, atol=1e-6)


def test_a_seed_is_a_run():
    settings = {"steps": 6, "solver": solvers.DDPM()}
    first, again, other = (sample(seed=seed, **settings) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("steps", [0, -1, True, 2.5, "10"])
def test_steps_that_make_no_run_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be"):
        sample(steps=steps)


def test_more_steps_than_the_table_has_are_refused_and_a_flow_has_no_limit():
    with pytest.raises(ValueError, match="at most the schedule's 20"):
        sample(schedule=LinearBeta(steps=20), steps=21)
    assert np.isfinite(sample(schedule=LinearBeta(steps=20), steps=20)).all()
    assert np.isfinite(sample(schedule=RectifiedFlow(), steps=1001)).all()


SECOND_ORDER = [
    solvers.Heun(),
    solvers.DPMSolverPP2M(),
    solvers.DPMSolverPP3M(),
    solvers.UniPC(2),
    solvers.UniPC(3),
]


@pytest.mark.parametrize(
    "schedule",
    [LinearBeta(), schedules.ZeroTerminalSNR(), RectifiedFlow(), schedules.EDM()],
    ids=str,
)
def test_twenty_steps_on_the_schedules_own_grid_are_enough(schedule):
    """Data of deviation 0.5 come out so, from noise whose mean is 0 and deviation 1."""
    x = sampler.initial_noise(0, range(200), (1,))
    x = (x - x.mean()) / x.std()
    for solver in SECOND_ORDER:
        result = sample(x=x, schedule=schedule, steps=20, solver=solver)
        assert abs(result.std() - 0.5) < 0.03, solver
        assert abs(result.mean()) < 1e-4, solver
    # Five standard errors of 200 samples are 0.125.
    result = sample(x=x, schedule=schedule, steps=20, solver=solvers.DPMSolverPP2MSDE())
    assert abs(result.std() - 0.5) < 0.15


# generate


@functools.cache
def diffusion(num_classes=3, **settings):
    network = keras_dit.DiTModel(
        SHAPE, patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=num_classes
    )
    rng = np.random.default_rng(0)
    for weight in network.trainable_variables:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    return keras_dit.Diffusion(network, prediction=keras_dit.predictions.V(), **settings)


# A step is compiled for each batch size, so that these tests stay with few of them.
GUIDED = guidance.ClassifierFree(2.0)


@pytest.mark.parametrize(
    "solver, guide",
    [
        (solvers.DDPM(), guidance.Unguided()),
        (solvers.Heun(), GUIDED),
        (solvers.DPMSolverPP3M(), GUIDED),
    ],
    ids=str,
)
def test_generate_is_sample_with_the_same_pieces(solver, guide):
    model, labels = diffusion(), np.array([0, 1], "int32")
    pictures = model.generate(labels=labels, steps=4, solver=solver, guidance=guide, seed=3)
    denoiser = Denoiser(model.network, model.schedule, model.prediction)
    denoise = guide(denoiser, ops.convert_to_tensor(labels))
    plain = keras_dit.backend.compile_inference(denoise)
    expected = sample(plain, noise(2, seed=3), steps=4, solver=solver, seed=3)
    np.testing.assert_allclose(pictures, model.codec.decode(expected), atol=1e-5)


def test_pictures_do_not_depend_on_the_batch_size():
    labels = [0, 1, None]
    settings = {"labels": labels, "steps": 3, "solver": solvers.DDPM(), "seed": 1}
    whole = diffusion().generate(**settings)
    assert whole.shape == (3, *SHAPE)
    assert whole.dtype == np.float32
    part = diffusion().generate(batch_size=2, **settings)  # 2 and 1
    np.testing.assert_allclose(part, whole, atol=1e-5)


def test_no_label_is_the_null_label_and_scale_0_is_unconditional():
    none = diffusion().generate(labels=[None, None], steps=3, seed=1)
    count = diffusion().generate(num_images=2, steps=3, seed=1)
    zero = diffusion().generate(
        labels=[0, 2], steps=3, seed=1, guidance=guidance.ClassifierFree(0.0)
    )
    np.testing.assert_array_equal(none, count)
    np.testing.assert_allclose(zero, none, atol=1e-5)


@pytest.mark.parametrize("steps", [0, -1, True, 1001])
def test_generate_refuses_steps_that_make_no_run(steps):
    with pytest.raises(ValueError, match="steps must be"):
        diffusion().generate(labels=[0], steps=steps)


def test_generate_decodes_into_the_codecs_range():
    bytes_ = diffusion(codec=keras_dit.codecs.Pixels(0, 255)).generate(labels=[0, 1], steps=1)
    unit = diffusion().generate(labels=[0, 1], steps=1)
    np.testing.assert_allclose(bytes_, (unit + 1) * 127.5, atol=1e-2)


def test_the_callback_of_generate_is_called_for_every_batch():
    seen = []
    diffusion().generate(
        labels=[0, 1, 2, 0], steps=2, batch_size=2, callback=lambda *call: seen.append(call)
    )
    assert [(step, len(x_t)) for step, _, x_t, _ in seen] == [(0, 2), (1, 2), (0, 2), (1, 2)]


def test_the_grid_says_which_times_are_visited():
    trajectory = sampler.Trajectory()
    grid = schedules.ArrayGrid([1.0, 0.3])
    diffusion().generate(labels=[0, 1], grid=grid, callback=trajectory)
    np.testing.assert_allclose(trajectory.t, [1.0, 0.3], atol=1e-7)
    with pytest.raises(ValueError, match="steps must be the grid's 2"):
        diffusion().generate(labels=[0], grid=grid, steps=3)


def test_without_steps_and_grid_a_run_has_fifty_of_the_schedules():
    times = sampler.run_times(schedules.EDM())
    np.testing.assert_array_equal(times, schedules.KarrasGrid()(schedules.EDM(), 50))
    assert len(sampler.run_times(LinearBeta(steps=20))) == 21


def test_a_grid_that_does_not_fall_is_refused():
    class Bad(schedules.TimeGrid):
        def __call__(self, schedule, steps):
            return np.array([1.0, 0.3, 0.3, 0.0], "float32")

    with pytest.raises(ValueError, match="do not fall"):
        sample(steps=3, grid=Bad())
    with pytest.raises(ValueError, match="do not fall"):
        sample(steps=20, grid=schedules.LeadingGrid(1), schedule=LinearBeta(steps=20))


def test_each_picture_may_have_a_seed_of_its_own():
    """It is then the first picture of that seed, wherever it stands."""
    settings = {"steps": 3, "solver": solvers.DDPM()}
    several = diffusion().generate(labels=[1, 1, 2], seed=[5, 9, 5], batch_size=1, **settings)
    for i, (label, seed) in enumerate([(1, 5), (1, 9), (2, 5)]):
        alone = diffusion().generate(labels=[label], seed=seed, **settings)
        np.testing.assert_allclose(several[i], alone[0], atol=1e-5)
    with pytest.raises(ValueError, match="2 seeds for 3 samples"):
        diffusion().generate(labels=[0, 1, 2], seed=[1, 2], **settings)
    with pytest.raises(ValueError, match="seed must be"):
        diffusion().generate(labels=[0, 1], seed=[1, -2], **settings)


def test_each_picture_may_have_a_scale_of_its_own():
    settings = {"labels": [0, 1, 2, 0], "steps": 3, "seed": 1, "batch_size": 2}
    scales = [0.0, 0.5, 4.0, 2.0]
    several = diffusion().generate(guidance=guidance.ClassifierFree(scales), **settings)
    for i, scale in enumerate(scales):
        one = diffusion().generate(guidance=guidance.ClassifierFree(scale), **settings)
        np.testing.assert_allclose(several[i], one[i], atol=1e-5)


def test_interval_guidance_is_the_same_with_and_without_the_steps_that_it_saves():
    """Heun looks at two times a step, of which one may lie in the interval alone."""
    model, labels, solver = diffusion(), np.array([0, 1], "int32"), solvers.Heun()
    guide = guidance.ClassifierFree(guidance.Interval(4.0, 0.3, 0.8))
    pictures = model.generate(labels=labels, steps=5, solver=solver, guidance=guide, seed=3)
    denoise = guide(model.denoiser(), ops.convert_to_tensor(labels))
    plain = keras_dit.backend.compile_inference(denoise)
    expected = sample(plain, noise(2, seed=3), steps=5, solver=solver)
    np.testing.assert_allclose(pictures, model.codec.decode(expected), atol=1e-5)


def test_autoguidance_uses_the_weak_networks_average_as_it_is_now():
    model, other = diffusion(), diffusion(ema=0.5)
    other.average.updates.assign(1)  # from here on the average counts, not the weights
    guide = guidance.Autoguidance(2.0, weak=other.denoiser())

    def pictures():
        return model.generate(labels=[0, 1], steps=1, guidance=guide, seed=3)

    same = pictures()  # the two networks are alike
    np.testing.assert_allclose(same, model.generate(labels=[0, 1], steps=1, seed=3), atol=1e-5)
    average = other.average.values[-1]
    average.assign(average + 0.3)
    assert np.abs(pictures() - same).max() > 0.01
    average.assign(average - 0.3)
    np.testing.assert_allclose(pictures(), same, atol=1e-5)


def test_a_trajectory_holds_every_step_of_every_batch():
    trajectory = sampler.Trajectory()
    pictures = diffusion().generate(
        labels=[0, 1, 2, 0], steps=4, batch_size=2, callback=trajectory, seed=1
    )
    assert trajectory.x_t.shape == trajectory.x0.shape == (4, 4, *SHAPE)
    np.testing.assert_allclose(trajectory.t, [1.0, 0.75, 0.5, 0.25], atol=1e-6)
    np.testing.assert_allclose(trajectory.x_t[0], noise(4, seed=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pictures, np.clip(trajectory.x0[-1], -1, 1), atol=1e-6)


def interrupt_at(call):
    calls = iter(range(1000))

    def callback(*_):
        if next(calls) == call:
            raise KeyboardInterrupt

    return callback


def test_an_interrupted_run_returns_what_there_is():
    settings = {"labels": [0, 1, 2, 0], "steps": 3, "batch_size": 2, "seed": 1}
    trajectory = sampler.Trajectory()
    whole = diffusion().generate(callback=trajectory, **settings)
    with pytest.warns(UserWarning, match="2 of 4 images are finished, 2 are estimates"):
        part = diffusion().generate(callback=interrupt_at(4), **settings)
    np.testing.assert_allclose(part[:2], whole[:2], atol=1e-6)
    np.testing.assert_allclose(part[2:], trajectory.x0[1, 2:].clip(-1, 1), atol=1e-6)
    with pytest.warns(UserWarning, match="0 of 4 images are finished, 2 are estimates"):
        part = diffusion().generate(callback=interrupt_at(0), **settings)
    np.testing.assert_allclose(part, trajectory.x0[0, :2].clip(-1, 1), atol=1e-6)


# Inversion


@pytest.mark.parametrize("schedule", [LinearBeta(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Heun()], ids=str)
def test_a_run_backwards_leads_to_the_noise_that_leads_back(solver, schedule):
    """Of Gaussian data of deviation 0.5, x / 0.5: the flow keeps quantiles."""
    x = 0.5 * noise()
    errors = []
    for steps in (80, 320):
        settings = {"schedule": schedule, "steps": steps, "solver": solver}
        found = ops.convert_to_numpy(sampler.invert(shrink, x, **settings))
        back = sample(x=found, **settings)
        errors.append([np.abs(found - x / 0.5).max(), np.abs(back - x).max()])
    coarse, fine = np.array(errors)
    assert (fine < coarse / 4**0.85).all()
    assert (fine < (0.03 if solver.order == 1 else 0.002)).all()


@pytest.mark.parametrize("solver", [solvers.DDPM(), solvers.UniPC(), solvers.Midpoint()], ids=str)
def test_a_run_with_noise_or_memory_cannot_be_inverted(solver):
    with pytest.raises(ValueError, match="no run backwards"):
        sampler.invert(shrink, noise(), LinearBeta(), solver=solver)


# Counting


@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.Heun(), solvers.UniPC()], ids=str)
def test_evaluations_are_counted(solver):
    calls = []

    def counted(x, rates):
        calls.append(x)
        return shrink(x, rates)

    sample(denoise=counted, steps=5, solver=solver)
    assert len(calls) == sampler.evaluations(solver, 5)
