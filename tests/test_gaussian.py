"""Laws of keras_dit.gaussian, objectives and solvers: the numbers of the published DDPM code."""

import functools
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import (
    Denoised,
    Diffusion,
    DiTModel,
    gaussian,
    guidance,
    objectives,
    predictions,
    sampler,
    schedules,
    solvers,
)
from keras_dit.processes import Process

GOLDENS = pathlib.Path(__file__).parent / "goldens"
LEARNED = predictions.LearnedVariance(predictions.Noise())
TABLES = {"linear": schedules.LinearBeta(), "cosine": schedules.CosineBeta()}
HYBRID = objectives.Hybrid()
FRACTIONS = {"learned": None, "small": 0.0, "large": 1.0}


@functools.cache
def golden(name, group):
    """{key: array} of one group of a file, pictures channels last."""
    with np.load(GOLDENS / name) as arrays:
        found = {
            k.removeprefix(f"{group}/"): arrays[k] for k in arrays if k.startswith(f"{group}/")
        }
    return {k: np.moveaxis(v, -3, -1) if v.ndim > 3 else v for k, v in found.items()}


diffusion_arrays = functools.partial(golden, "gaussian_diffusion.npz")
term_arrays = functools.partial(golden, "gaussian_terms.npz")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def at(schedule, k):
    return schedule((np.asarray(k) + 1.0) / schedule.steps)


def close(found, expected, tolerance):
    np.testing.assert_allclose(numpy(found), expected, rtol=tolerance, atol=tolerance)


# Tables and distributions


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_published_ones(name):
    chain, arrays = gaussian.Chain(TABLES[name]), diffusion_arrays(name)
    close(TABLES[name].alphas_cumprod(), arrays["alphas_cumprod"], 1e-12)
    close(chain.posterior_variance, arrays["posterior_variance"], 2e-6)
    close(chain.posterior_log_variance, arrays["posterior_log_variance_clipped"], 2e-6)
    close(chain.x0_coefficient, arrays["posterior_mean_coef1"], 2e-6)
    close(chain.x_t_coefficient, arrays["posterior_mean_coef2"], 2e-6)
    relative = np.abs(chain.posterior_variance / arrays["posterior_variance"] - 1)[1:]
    assert relative.max() < 2e-6


@pytest.mark.parametrize("name", TABLES)
def test_the_forward_process_is_the_published_one(name):
    arrays = diffusion_arrays("training")
    rates = schedules.broadcast(at(TABLES[name], arrays["timesteps"]), arrays["x0"])
    x_t = numpy(rates.alpha) * arrays["x0"] + numpy(rates.sigma) * arrays["noise"]
    close(x_t, arrays[f"x_t_{name}"], 2e-5)


def reverse_case():
    arrays = term_arrays("reverse")
    chain = gaussian.Chain(schedules.LinearBeta())
    x_t, k = ops.convert_to_tensor(arrays["x_t"]), ops.convert_to_tensor(arrays["timesteps"])
    return arrays, chain, x_t, ops.cast(k, "int32")


def test_the_posterior_is_the_published_one():
    arrays, chain, x_t, k = reverse_case()
    found = chain.posterior(ops.convert_to_tensor(arrays["x0"]), x_t, k)
    close(found.mean, arrays["posterior_mean"], 2e-5)
    close(found.log_variance + ops.zeros_like(x_t), arrays["posterior_log_variance"], 2e-5)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", FRACTIONS)
def test_the_reverse_step_is_the_published_one(name, clip):
    """Learned-range, fixed-small and fixed-large variance; clipping is a guidance's."""
    arrays, chain, x_t, k = reverse_case()
    rates = at(chain.schedule, arrays["timesteps"])
    prediction = LEARNED if name == "learned" else predictions.Noise()
    output = ops.convert_to_tensor(arrays["output"])
    output = output if name == "learned" else output[..., :3]

    def denoiser(x, rates, condition):
        return prediction.denoised(output, x, rates)

    steered = guidance.Clipped() if clip else guidance.Unguided()
    denoised = steered(denoiser, None)(x_t, rates)
    found = chain.reverse(denoised, x_t, k, FRACTIONS[name])
    key = name + ("_clip" if clip else "")
    close(found.mean, arrays[f"{key}/mean"], 2e-5)
    close(found.log_variance + ops.zeros_like(x_t), arrays[f"{key}/log_variance"], 2e-5)


def test_the_reverse_step_is_what_the_solver_draws_from():
    """solvers.DDPM with noise 0 gives p's mean, with noise 1 its deviation more."""
    arrays, chain, x_t, _ = reverse_case()
    output = ops.convert_to_tensor(arrays["output"])
    for place, k in enumerate(arrays["timesteps"]):
        if k == 0:
            continue  # the last step of a run is the denoiser itself
        x, here = x_t[place : place + 1], at(chain.schedule, k)

        def denoise(x, rates, place=place):
            return LEARNED.denoised(output[place : place + 1], x, rates)

        steps = ops.full((1,), int(k), dtype="int32")
        expected = chain.reverse(denoise(x, here), x, steps)
        draws = [
            solvers.DDPM().step(denoise, x, here, at(chain.schedule, k - 1), None, noise)[0]
            for noise in (ops.zeros_like(x), ops.ones_like(x))
        ]
        close(draws[0], numpy(expected.mean), 2e-5)
        deviation = np.exp(numpy(expected.log_variance) / 2)
        np.testing.assert_allclose(numpy(draws[1] - draws[0]), deviation, rtol=1e-3, atol=2e-6)


def test_divergence_and_likelihood_are_the_published_ones():
    arrays = {key: ops.convert_to_tensor(value) for key, value in term_arrays("terms").items()}
    one = gaussian.Normal(arrays["mean1"], arrays["log_variance1"])
    other = gaussian.Normal(arrays["mean2"], arrays["log_variance2"])
    close(gaussian.kl(one, other), numpy(arrays["kl"]), 2e-5)
    close(gaussian.kl(one, one), np.zeros(64), 1e-6)
    normal = gaussian.Normal(arrays["means"], 2.0 * arrays["log_scales"])
    found = gaussian.discretized_log_likelihood(arrays["x"], normal)
    close(found, numpy(arrays["likelihood"]), 2e-4)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.02), (0.9, 0.3), (-1.0, 0.05)])
def test_the_likelihoods_of_all_values_sum_to_one(mean, scale):
    values = ops.convert_to_tensor((np.arange(256) / 127.5 - 1).astype("float32"))
    normal = gaussian.Normal(ops.full((256,), mean), ops.full((256,), 2 * np.log(scale)))
    mass = np.exp(numpy(gaussian.discretized_log_likelihood(values, normal)))
    assert abs(mass.sum() - 1) < 1e-4


@pytest.mark.parametrize("name", FRACTIONS)
def test_the_whole_bound_is_the_published_one(name):
    """Of a respaced chain of ten steps, with stored noise; "small" is clipped."""
    arrays = term_arrays(f"bound_{name}")
    schedule = schedules.LinearBeta()
    chain = gaussian.Chain(schedule, arrays["timesteps"])
    prediction = LEARNED if name == "learned" else predictions.Noise()
    place = {float(k): i for i, k in enumerate(arrays["timesteps"])}  # the last step comes first

    def denoise(x_t, rates):
        k = float(numpy(schedule.timestep(rates.t)))
        output = ops.convert_to_tensor(arrays["outputs"][place[k]])
        x0, fraction = prediction.denoised(output, x_t, rates)
        return Denoised(ops.clip(x0, -1, 1) if name == "small" else x0, fraction)

    found = gaussian.bits_per_dimension(
        denoise,
        arrays["x0"],
        chain,
        noise=lambda k: arrays["noise"][-1 - k],
        variance_fraction=FRACTIONS[name],
    )
    # x0 = (x_t - sigma noise) / alpha: at k = 999 float32 holds it to 3e-5, and where the
    # variance is small the bound is made of its differences squared.
    np.testing.assert_allclose(found.terms[:, ::-1], arrays["vb"], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(found.prior, arrays["prior_bpd"], rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found.total, arrays["total_bpd"], rtol=2e-4)
    np.testing.assert_allclose(found.x0_error[:, ::-1], arrays["xstart_mse"], rtol=2e-4)
    np.testing.assert_allclose(found.noise_error[:, ::-1], arrays["mse"], rtol=2e-4, atol=2e-4)


def test_the_bound_of_gaussian_data_is_its_entropy():
    """Of N(0, s²) every reverse step is a normal, in closed form: with its variance learned, the
    bound is tight for any chain. Up to the mean over the samples it is the entropy."""
    s, count = 0.25, 4096
    rng = np.random.default_rng(0)
    x0 = np.round((s * rng.standard_normal((count, 1)) + 1) * 127.5) / 127.5 - 1
    chain = gaussian.Chain(schedules.LinearBeta(), np.arange(0, 1000, 37))
    low, high = chain.posterior_log_variance, np.log(chain.betas)

    def denoise(x_t, rates):
        k = int(
            np.argmin(np.abs(chain.steps - float(numpy(schedules.LinearBeta().timestep(rates.t)))))
        )
        alpha, sigma = float(rates.alpha), float(rates.sigma)
        gain = alpha * s**2 / ((alpha * s) ** 2 + sigma**2)
        spread = (chain.x0_coefficient[k] * s) ** 2 * (1 - gain * alpha)  # of x0 given x_t
        fraction = (np.log(chain.posterior_variance[k] + spread) - low[k]) / (high[k] - low[k])
        return Denoised(gain * x_t, fraction * ops.ones_like(x_t))

    found = gaussian.bits_per_dimension(denoise, x0.astype("float32"), chain, seed=3)
    entropy = np.log2(s * 127.5 * np.sqrt(2 * np.pi * np.e))  # of the values 0 … 255
    surprise = np.log2(np.e) * (x0**2 / s**2 - 1).mean() / 2  # of this draw over the mean of all
    assert abs(found.total.mean() - entropy - surprise) < 0.03


def test_a_chain_needs_two_steps():
    with pytest.raises(ValueError, match=r"a chain has 2 steps or more. Received: steps="):
        gaussian.Chain(schedules.LinearBeta(), [999])


# The hybrid loss


def loss_of(objective, output):
    arrays = diffusion_arrays("training")
    x0, noise = map(ops.convert_to_tensor, (arrays["x0"], arrays["noise"]))
    rates = at(schedules.LinearBeta(), arrays["timesteps"])
    process = Process(schedules.LinearBeta(), LEARNED, objective)
    return objective.loss(lambda *_: output, objectives.Batch(x0, noise), rates, process)


def test_the_hybrid_loss_is_the_published_one():
    arrays = diffusion_arrays("training")
    output = ops.convert_to_tensor(arrays["output"])
    close(loss_of(HYBRID, output), arrays["loss"], 2e-4)
    close(loss_of(objectives.MeanSquaredError(), output), arrays["mse"], 2e-5)
    bound = loss_of(HYBRID, output) - loss_of(objectives.MeanSquaredError(), output)
    close(bound, arrays["vb"], 2e-4)


def test_the_gradient_of_the_hybrid_loss_is_the_published_one():
    """By each backend's own differentiation: the bound does not reach the noise channels."""
    arrays = diffusion_arrays("training")

    class Free(keras.Model):
        """The output itself is the weight."""

        def __init__(self):
            super().__init__(autocast=False)
            self.output_value = self.add_weight(shape=arrays["output"].shape)
            self.output_value.assign(arrays["output"])
            self.built = True

        def call(self, x):
            return x

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum(loss_of(HYBRID, ops.convert_to_tensor(self.output_value)))

    model = Free()
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.train_on_batch(np.zeros((1, 1)))
    found = arrays["output"] - numpy(model.output_value)
    expected = arrays["grad_output"]
    for part in (slice(0, 3), slice(3, 6)):
        scale = np.abs(expected[..., part]).max()
        difference = np.abs(found[..., part] - expected[..., part]).max()
        assert difference < 2e-4 * scale + 3e-7  # the weights hold 6e-8 of their size


def network():
    return DiTModel((4, 4, 1), 2, 16, 1, 2, num_classes=2, learned_variance=True)


def test_a_learned_variance_trains_through_fit():
    """After training the bound is lower with the learned variance than with a new network's."""
    keras.utils.set_random_seed(0)
    coarse = schedules.LinearBeta(10, 0.05, 0.6)  # of few steps, whose variance matters
    diffusion = Diffusion(network(), coarse, ema=None)
    diffusion.compile(keras.optimizers.Adam(1e-2))
    x0 = np.full((64, 4, 4, 1), 0.5, "float32")
    history = diffusion.fit(x0, np.arange(64) % 2, batch_size=64, epochs=40, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    k = (np.arange(64) % 9 + 1).astype("int32")
    rates = schedules.broadcast(at(diffusion.schedule, k), x0)
    noise = np.random.default_rng(0).standard_normal(x0.shape).astype("float32")
    x_t = rates.alpha * ops.convert_to_tensor(x0) + rates.sigma * ops.convert_to_tensor(noise)
    denoised = LEARNED.denoised(diffusion.network(x_t, k, np.arange(64) % 2), x_t, rates)
    chain, x0, k = gaussian.Chain(diffusion.schedule), *map(ops.convert_to_tensor, (x0, k))
    learned = numpy(chain.bound(x0, x_t, k, denoised))
    new = numpy(chain.bound(x0, x_t, k, Denoised(denoised.x0), variance_fraction=0.5))
    assert learned.mean() < new.mean()


def test_the_default_objective_follows_the_parts():
    small = network()
    cosine = Diffusion(small, schedules.CosineBeta(), ema=None)
    assert cosine.objective == objectives.Hybrid()
    flow = predictions.LearnedVariance(predictions.FlowVelocity())
    assert Diffusion(small, schedules.RectifiedFlow(), flow, ema=None).objective == (
        objectives.MeanSquaredError()
    )
    with pytest.raises(ValueError, match="schedule must be a TableSchedule"):
        Diffusion(small, schedules.RectifiedFlow(), objective=HYBRID)
    with pytest.raises(ValueError, match="must be a LearnedVariance"):
        Diffusion(
            small,
            prediction=predictions.HalfUnused(predictions.Noise()),
            objective=HYBRID,
        )


# Whole loops


class Recorded:
    """The noise of a recorded run, in its order."""

    def __init__(self, noise):
        self.draws = iter(noise)

    def draw(self):
        return next(self.draws)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("ddpm10_learned", solvers.DDPM()),
        ("ddpm10_learned_clip", solvers.DDPM()),
        ("ddpm10_small", solvers.DDPM(0.0)),
        ("ddpm10_large", solvers.DDPM(1.0)),
        ("ddim10_eta0", solvers.DDIM(0.0)),
        ("ddim10_eta0_clip", solvers.DDIM(0.0)),
        ("ddim10_eta07", solvers.DDIM(0.7)),
    ],
)
def test_whole_sampling_loops_are_the_published_ones(name, solver):
    arrays = diffusion_arrays(name)
    prediction = LEARNED if "learned" in name else predictions.Noise()
    outputs = iter(arrays["outputs"])
    seen, schedule = [], schedules.LinearBeta()

    def denoiser(x_t, rates, condition):
        seen.append(float(numpy(schedule.timestep(rates.t))))
        return prediction.denoised(ops.convert_to_tensor(next(outputs)), x_t, rates)

    denoise = (guidance.Clipped() if "clip" in name else guidance.Unguided())(denoiser, None)

    def advance(x, here, there, state, noise):
        return sampler.take_step(denoise, solver, x, here, there, state, noise)

    visited, times = [], np.append((arrays["timesteps"] + 1.0) / 1000, 0.0).astype("float32")
    result = sampler.run(
        advance,
        arrays["x_T"] / numpy(at(schedule, arrays["timesteps"][0]).sigma),  # run scales by sigma
        sampler.run_rates(schedule, times),
        solver,
        Recorded(arrays["noise"]),
        lambda step, t, x_t, x0: visited.append(x_t),
    )
    assert seen == list(arrays["timesteps"])
    close(np.stack([*visited[1:], numpy(result)]), arrays["x"], 5e-4)
