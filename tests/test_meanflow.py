"""Laws of average velocities: the derivative, MeanFlow's loss, steps of any length, settings."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, gradients

import keras_dit
from keras_dit import adapt, backend, guidance, predictions, processes, sampler, solvers
from keras_dit.cli import main, models
from keras_dit.conditions import Setting, Vector
from keras_dit.objectives import (
    AdaptiveWeight,
    BackwardDifference,
    Batch,
    MeanFlow,
    MeanSquaredError,
    OwnVelocity,
    RandomGuidance,
    SampleVelocity,
)
from keras_dit.schedules import RectifiedFlow, ReversedFlow, Step

SHAPE = (4, 4, 1)
PROCESS = processes.named("meanflow")
VELOCITY = keras_dit.Process(ReversedFlow(), predictions.FlowVelocity(), MeanFlow(guidance=None))


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def compiled(function):
    """For JAX, which else compiles each operation for each shape."""
    return backend.compile_inference(function) if backend.BACKEND == "jax" else function


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def network(process=PROCESS, **settings):
    parts = {**process.network_parts(), **settings}
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 2, 2, num_classes=3, **parts))


def beside(n, seed=0, other=None):
    """What `MeanFlow.sample_beside` would draw, with no step of the whole way."""
    drawn = np.random.default_rng(seed).uniform(0.05, 0.95, (n, 5)).astype("float32")
    drawn[:, 1] = 1.0
    if other is not None:
        drawn[:, 0] = other
    return drawn


# The derivative


def test_the_derivative_of_a_network_is_that_of_central_differences():
    model, x, t = network(), normal(2, *SHAPE), np.array([0.3, 0.8], "float32")
    along, labels = normal(2, *SHAPE, seed=1), np.array([0, 2])

    def run(x, t):
        told = {"label": labels, "span": ops.expand_dims(t - 0.1, -1)}
        return model(x, t, told)

    @compiled
    def derivative(x, t, along):
        return backend.forward_derivative(run, (x, t), (along, ops.ones_like(t)))

    value, slope = derivative(*map(ops.convert_to_tensor, (x, t, along)))
    run = compiled(run)
    with backend.plain_kernels():
        at = {h: numpy(run(x + h * along, t + np.float32(h))) for h in (-2e-2, -1e-2, 1e-2, 2e-2)}
    differences = (8 * (at[1e-2] - at[-1e-2]) - (at[2e-2] - at[-2e-2])) / 0.12  # of fourth order
    np.testing.assert_allclose(numpy(value), numpy(run(x, t)), atol=1e-5)
    np.testing.assert_allclose(numpy(slope), differences, atol=5e-4 * np.abs(differences).max())


def test_gradients_go_through_the_value_and_the_derivative():
    def values(weight, which):
        parts = backend.forward_derivative(
            lambda x: weight * ops.square(x), (ops.ones((2,)),), (3.0 * ops.ones((2,)),)
        )
        return ops.sum(parts[which])

    (of_value,) = gradients(lambda w: values(w, 0), np.ones(2))
    (of_slope,) = gradients(lambda w: values(w, 1), np.ones(2))
    np.testing.assert_allclose(of_value, [1, 1])  # x²
    np.testing.assert_allclose(of_slope, [6, 6])  # 2 x · 3


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float32"])
def test_remat_and_half_precision_have_a_derivative(dtype):
    plain, again = network(dtype=dtype), network(dtype=dtype, remat=True)
    x, t = ops.convert_to_tensor(normal(2, *SHAPE)), ops.convert_to_tensor([0.3, 0.8])

    def slope(model):
        def derivative(x, t):
            return backend.forward_derivative(
                lambda x, t: model(x, t, np.array([0, 1]), training=True, dropped={}),
                (x, t),
                (x, ops.ones_like(t)),
            )[1]

        return compiled(derivative)(x, t)

    np.testing.assert_allclose(numpy(slope(plain)), numpy(slope(again)), atol=1e-4)
    assert np.isfinite(numpy(slope(plain))).all()


# The loss


def field(weights, x_t, rates):
    """A smooth u(x, r, t) with a known derivative: tanh(a x + b t + c r)."""
    a, b, c = weights
    until = rates.t if rates.until is None else rates.until
    inner = b * rates.t + c * until
    return ops.tanh(a * x_t + ops.reshape(inner, (-1, *[1] * (len(x_t.shape) - 1))))


def loss_of(objective, evaluate, n=6, process=VELOCITY, seed=0, **more):
    process = dataclasses.replace(process, objective=objective)
    t = np.random.default_rng(seed).uniform(0.1, 0.9, n).astype("float32")
    batch = Batch(normal(n, *SHAPE), normal(n, *SHAPE, seed=1), beside=beside(n, seed), **more)
    batch = Batch(*(None if x is None else ops.convert_to_tensor(x) for x in batch))
    rates = process.schedule(t)
    loss = compiled(lambda batch, rates: objective.loss(evaluate, batch, rates, process))
    return loss(batch, rates), batch, rates


WEIGHTS = (np.float32(0.7), np.float32(-0.4), np.float32(0.3))


def plain(x_t, rates, condition=None, **settings):
    return field(WEIGHTS, x_t, rates)


def test_where_both_times_are_one_it_is_flow_matching():
    loss, batch, rates = loss_of(MeanFlow(guidance=None), plain)
    flow = MeanSquaredError().loss(plain, batch, rates, VELOCITY)
    np.testing.assert_allclose(numpy(loss)[1::2], numpy(flow)[1::2], rtol=1e-5)
    assert not np.isclose(numpy(loss)[::2], numpy(flow)[::2]).any()


@pytest.mark.parametrize("direction", [OwnVelocity(), SampleVelocity()])
def test_jumps_obey_the_identity(direction):
    """The loss against numpy, with the derivative of tanh written out."""
    objective = MeanFlow(every=1, guidance=None, direction=direction)
    loss, batch, rates = loss_of(objective, plain)
    a, b, c = map(float, WEIGHTS)
    one, other = numpy(rates.t), numpy(batch.beside)[:, 0]
    t, r = (f(one, other).reshape(-1, 1, 1, 1) for f in (np.maximum, np.minimum))
    x0, noise = numpy(batch.x0), numpy(batch.noise)
    x_t, sample = (1 - t) * x0 + t * noise, noise - x0
    u = np.tanh(a * x_t + b * t + c * r)
    v = np.tanh(a * x_t + (b + c) * t) if direction == OwnVelocity() else sample
    slope = (1 - u**2) * (a * v + b)
    expected = ((u + (t - r) * slope - sample) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-4)


def test_meanflow_as_published_has_the_same_gradient():
    """‖u − sg(v − (t − r) du/dt)‖² of equation 10, with the sample's velocity as the direction."""
    objective = MeanFlow(every=1, guidance=None, direction=SampleVelocity())

    def ours(*weights):
        return ops.sum(loss_of(objective, lambda x, rates, **_: field(weights, x, rates))[0])

    def published(*weights):
        _, batch, rates = loss_of(objective, plain)
        t, r = (f(rates.t, batch.beside[:, 0]) for f in (ops.maximum, ops.minimum))
        x_t, sample = batch.noisy(VELOCITY.schedule(t)), batch.noise - batch.x0

        def u(x, t):
            return field(weights, x, Step(*VELOCITY.schedule(t), until=r))

        value, slope = backend.forward_derivative(u, (x_t, t), (sample, ops.ones_like(t)))
        target = sample - ops.reshape(t - r, (-1, 1, 1, 1)) * slope
        return ops.sum(ops.mean(ops.square(value - ops.stop_gradient(target)), axis=(1, 2, 3)))

    for one, two in zip(gradients(ours, *WEIGHTS), gradients(published, *WEIGHTS)):
        np.testing.assert_allclose(one, two, rtol=1e-3)


def test_the_difference_comes_to_the_derivative_and_begins_at_flow_matching():
    exact, *_ = loss_of(MeanFlow(every=1, guidance=None), plain)
    near, *_ = loss_of(MeanFlow(every=1, guidance=None, slope=BackwardDifference(0.01)), plain)
    np.testing.assert_allclose(numpy(near), numpy(exact), rtol=0.02)
    flow, batch, rates = loss_of(
        MeanFlow(every=1, guidance=None, slope=BackwardDifference(1)), plain
    )
    t, r = (f(rates.t, batch.beside[:, 0]) for f in (ops.maximum, ops.minimum))
    x_t = batch.noisy(VELOCITY.schedule(t))
    error = field(WEIGHTS, x_t, Step(*VELOCITY.schedule(t), until=r)) - (batch.noise - batch.x0)
    np.testing.assert_allclose(numpy(flow), numpy(error**2).mean(axis=(1, 2, 3)), rtol=1e-4)


def test_alpha_flow_has_the_same_gradient():
    """1/α ‖u_t − (α v + (1 − α) u_l)‖² with u_l fixed, of AlphaFlow's equation 10."""
    share, objective = 0.25, MeanFlow(
        every=1, guidance=None, direction=SampleVelocity(), slope=BackwardDifference(0.25)
    )  # fmt: skip

    def ours(*weights):
        return ops.sum(loss_of(objective, lambda x, rates, **_: field(weights, x, rates))[0])

    def published(*weights):
        _, batch, rates = loss_of(objective, plain)
        t, r = (f(rates.t, batch.beside[:, 0]) for f in (ops.maximum, ops.minimum))
        between = share * r + (1 - share) * t

        def u(time):
            rates = VELOCITY.schedule(time)
            return field(weights, batch.noisy(rates), Step(*rates, until=r))

        sample = batch.noise - batch.x0
        target = share * sample + (1 - share) * ops.stop_gradient(u(between))
        return ops.sum(ops.mean(ops.square(u(t) - target), axis=(1, 2, 3))) / share

    for one, two in zip(gradients(ours, *WEIGHTS), gradients(published, *WEIGHTS)):
        np.testing.assert_allclose(one, two, rtol=1e-3)


def test_guided_targets_are_those_of_the_authors():
    """tests/goldens/make_imeanflow.py: the loss of Lyy-iiis/imeanflow and its gradient."""
    golden = dict(np.load(pathlib.Path(__file__).parent / "goldens" / "imeanflow.npz"))
    labels, classes = golden["labels"], 3
    share = np.log(golden["omega"]) / np.log(4.0)
    low, high = golden["t_min"] + 0.5, golden["t_max"] - 0.5  # as numbers in [0, 1]
    drawn = np.stack([golden["other"], np.ones(8), share, low, high], axis=-1).astype("float32")
    objective = MeanFlow(guidance=RandomGuidance(largest=4.0, power=1.0))
    process = dataclasses.replace(VELOCITY, objective=objective)

    def loss(weights):
        def evaluate(x, rates, condition, settings):
            extra, low, high = ops.unstack(settings["guidance"], axis=-1)
            told = weights[3] * extra + weights[4] * low + weights[5] * high
            known = ops.cast(condition < classes, "float32")
            inner = weights[0] * ops.sum(x, axis=(1, 2, 3)) + weights[1] * rates.t
            inner = inner + weights[2] * (rates.t - rates.until) + known * told
            inner = inner + ops.take(weights[6:10], condition)
            return ops.tanh(weights[10] * x + ops.reshape(inner, (-1, 1, 1, 1)))

        told = ops.convert_to_tensor(labels), ops.full((8,), classes, "int32")
        arrays = [ops.convert_to_tensor(golden[name]) for name in ("x0", "noise")]
        beside = ops.convert_to_tensor(drawn)
        batch = Batch(*arrays, told[0], null=told[1], beside=beside)
        each = objective.loss(
            lambda x, rates, condition=told[0], **more: evaluate(x, rates, condition, **more),
            batch, process.schedule(golden["one"]), process)  # fmt: skip
        return ops.mean(each)

    value = float(numpy(loss(ops.convert_to_tensor(golden["weights"]))))
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-5)
    (gradient,) = gradients(loss, golden["weights"])
    np.testing.assert_allclose(gradient, golden["gradient"], rtol=1e-3, atol=1e-4)


def test_adaptive_weights_leave_the_direction_and_bound_the_size():
    objective = MeanFlow(every=1, guidance=None, weight=AdaptiveWeight(1.0, 0.01))
    loss, *_ = loss_of(objective, plain)
    square = 16 * numpy(loss_of(MeanFlow(every=1, guidance=None), plain)[0])
    np.testing.assert_allclose(numpy(loss), square / (square + 0.01), rtol=1e-5)


@pytest.mark.parametrize(("every", "n"), [(1, 3), (2, 1), (2, 5), (3, 7)])
def test_each_sample_has_its_own_loss_in_its_own_place(every, n):
    marks = np.arange(n, dtype="float32")
    objective = MeanFlow(every=every, guidance=None)

    def evaluate(x_t, rates, condition, **settings):
        return 0.0 * x_t + ops.reshape(condition, (-1, 1, 1, 1))

    batch = Batch(0 * normal(n, *SHAPE), 0 * normal(n, *SHAPE), marks, beside=beside(n))
    batch = Batch(*(None if x is None else ops.convert_to_tensor(x) for x in batch))
    loss = objective.loss(
        lambda x, rates, condition=None, **_: evaluate(x, rates, condition),
        batch, VELOCITY.schedule(np.full(n, 0.5, "float32")), VELOCITY)  # fmt: skip
    np.testing.assert_allclose(numpy(loss), marks**2, rtol=1e-5)


def test_scales_have_their_density():
    for power in (1.0, 2.0, 3.0):
        scale = RandomGuidance(largest=4.0, power=power).scale(np.linspace(0, 1, 20001))
        assert np.isclose(scale[0], 1) and np.isclose(scale[-1], 4)
        steps = np.diff(scale) * scale[:-1] ** -power  # equal shares of w^−power
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)


# On a Gaussian: data of deviation S, x_r = x_t q(r) / q(t)

S = 0.5


def q(t):
    return ((1 - t) ** 2 * S**2 + t**2) ** 0.5


class Exact:
    """The average velocity of Gaussian data, called as a network."""

    conditions = {"span": Setting()}  # noqa: RUF012

    def named(self, y):
        return {} if y is None else y

    def __call__(self, x, t, y=None, training=None, dropped=None):
        t = 1.0 - t  # ReversedFlow
        r = t if y is None else t - y["span"][:, 0]
        instant = (t - (1 - t) * S**2) / q(t) ** 2
        average = (1 - q(r) / q(t)) / ops.maximum(t - r, 1e-6)
        factor = ops.where(t - r > 1e-6, average, instant)
        return x * ops.reshape(factor, (-1, 1, 1, 1))


@pytest.mark.parametrize("direction", [OwnVelocity(), SampleVelocity()])
def test_the_exact_average_velocity_has_no_residual(direction):
    """What is left in (1) is the spread of the samples' velocities about that of the flow."""
    n, exact = 512, Exact()

    def evaluate(x, rates, condition=None, **_):
        return exact(x, 1.0 - rates.t, {"span": ops.expand_dims(rates.t - rates.until, -1)})

    objective = MeanFlow(every=1, guidance=None, direction=direction)
    process = dataclasses.replace(VELOCITY, objective=objective)
    t = np.random.default_rng(2).uniform(0.1, 0.9, n).astype("float32")
    batch = Batch(S * normal(n, *SHAPE), normal(n, *SHAPE, seed=1), beside=beside(n))
    batch = Batch(*(None if x is None else ops.convert_to_tensor(x) for x in batch))
    loss = compiled(lambda batch, rates: objective.loss(evaluate, batch, rates, process))
    loss = numpy(loss(batch, process.schedule(t)))
    t = np.maximum(t, numpy(batch.beside)[:, 0]).reshape(-1, 1, 1, 1)
    x_t = (1 - t) * numpy(batch.x0) + t * numpy(batch.noise)
    sample, flow = numpy(batch.noise) - numpy(batch.x0), x_t * (t - (1 - t) * S**2) / q(t) ** 2
    left = ((flow - sample) ** 2).mean(axis=(1, 2, 3))
    if direction == OwnVelocity():
        np.testing.assert_allclose(loss, left, rtol=2e-3)
    else:  # on average only: the direction has the spread too
        assert abs(loss.mean() - left.mean()) > 0.01


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ddim_is_exact_in_any_number_of_steps(steps):
    denoiser = keras_dit.Denoiser(Exact(), ReversedFlow(), predictions.FlowVelocity())
    noise = normal(3, *SHAPE)
    made = sampler.sample(denoiser, noise, ReversedFlow(), steps=steps)
    np.testing.assert_allclose(numpy(made), S * noise, atol=1e-5)


def test_lcm_draws_the_end_of_the_path_and_euler_follows_the_instant():
    denoiser = keras_dit.Denoiser(Exact(), ReversedFlow(), predictions.FlowVelocity())
    noise = normal(2000, 1, 1, 1)
    made = sampler.sample(denoiser, noise, ReversedFlow(), steps=3, solver=solvers.LCM())
    assert abs(numpy(made).std() - S) < 0.03
    rough = sampler.sample(denoiser, noise, ReversedFlow(), steps=3, solver=solvers.Euler())
    same = sampler.sample(
        lambda x, rates: denoiser(x, keras_dit.Rates(*rates)), noise, ReversedFlow(), steps=3
    )
    # Its last step is that of the average, which the other lacks.
    assert abs(numpy(rough).std() - S) < abs(numpy(same).std() - S)


def test_ddim_is_turned_around_by_instants():
    denoiser = keras_dit.Denoiser(Exact(), ReversedFlow(), predictions.FlowVelocity())
    noise = normal(3, *SHAPE)
    found = sampler.invert(denoiser, S * noise, ReversedFlow(), steps=200)
    np.testing.assert_allclose(numpy(found), noise, atol=0.05)


def test_a_network_without_a_span_is_told_what_it_was_told():
    told = np.array([0, 1])
    step = Step(*RectifiedFlow()(0.5), until=0.25)
    model = keras_dit.DiTModel(SHAPE, 2, 8, 1, 2, num_classes=3)
    assert sampler_told(model, told, step) is told
    settings = sampler_told(network(), told, step)
    assert set(settings) == {"label", "span"}
    np.testing.assert_allclose(numpy(settings["span"]), np.full((2, 1), 0.25))


def sampler_told(model, condition, rates, **settings):
    from keras_dit.sampling.denoiser import with_settings

    return with_settings(model, condition, rates, 2, settings)


# Settings


def test_a_setting_changes_nothing_in_a_trained_network():
    trained = keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, num_classes=3)
    told = {**trained.get_config(), "conditions": {}}
    extended = keras_dit.DiTModel.from_config(
        {**told, "conditions": {n: keras.saving.serialize_keras_object(Setting((0.0, 1.0)))
                                for n in ("span", "more")}})  # fmt: skip
    draw_weights(trained)
    copied = {v.path.partition("/")[2]: v for v in trained.weights}
    for variable in extended.weights:
        found = copied.get(variable.path.partition("/")[2])
        if found is not None:
            variable.assign(ops.convert_to_numpy(found))
    x, t, y = normal(2, *SHAPE), np.array([0.2, 0.9], "float32"), np.array([0, 1])
    values = {"label": y, "span": normal(2, 2), "more": normal(2, 2, seed=1)}
    before = numpy(trained(x, t, y))
    np.testing.assert_array_equal(numpy(extended(x, t, y)), before)
    np.testing.assert_array_equal(numpy(extended(x, t, values)), before)


def test_users_are_not_asked_for_settings():
    model = network()
    assert list(model.told) == ["label"]
    np.testing.assert_array_equal(model.check([2, None]), [2, 3])
    np.testing.assert_array_equal(model.null(2), [3, 3])
    assert set(model.draw_dropped(4)) == {"label"}
    with pytest.raises(ValueError, match="span is set by the process"):
        model.check({"label": [1], "span": [0.5]})
    two = network(conditions={"age": Vector(1), **PROCESS.network_parts()["conditions"]})
    assert list(two.null(2)) == ["label", "age"]
    alone = keras_dit.DiTModel(SHAPE, 2, 8, 1, 2, **PROCESS.network_parts())
    assert alone.null(2) is None
    assert keras_dit.Diffusion(alone, process=PROCESS).generate(num_images=2, steps=1).shape[0] == 2


def test_what_does_not_fit_is_said():
    plain = keras_dit.DiTModel(SHAPE, 2, 8, 1, 2, num_classes=3)
    with pytest.raises(ValueError, match=r"network_parts.*Received: one without span"):
        keras_dit.Diffusion(plain, process=PROCESS)
    with pytest.raises(ValueError, match=r"straight paths.*shift=3"):
        keras_dit.Process(RectifiedFlow(3.0), predictions.FlowVelocity(), MeanFlow())
    with pytest.raises(ValueError, match=r"use ClassifierFree.*of label"):
        keras_dit.Diffusion(plain).generate(labels=[0], guidance=guidance.Conditioned(2.0))
    with pytest.raises(ValueError, match=r"low <= high.*low=0\.8"):
        guidance.Conditioned(2.0, low=0.8, high=0.2)
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
        BackwardDifference(0.0)
    with pytest.raises(ValueError, match="slope must be an object of a Slope class"):
        MeanFlow(slope=None)
    with pytest.raises(ValueError, match="null must be finite numbers"):
        Setting(null=())


def test_guidance_is_told_by_steps_and_by_instants():
    seen = []

    def denoiser(x_t, rates, condition, settings):
        seen.append(numpy(settings["guidance"]).tolist())
        return keras_dit.Denoised(x_t)

    rates = ReversedFlow()(0.9)
    denoise = guidance.Conditioned(2.0, low=0.25, high=0.75)(denoiser, None)
    denoise(None, Step(*rates, until=0.0))
    denoise(None, rates)  # outside of the interval
    denoise(None, ReversedFlow()(0.5))
    assert seen == [[0.5, 0.25, 0.75], [0.0, 0.0, 1.0], [0.5, 0.0, 1.0]]


# The whole


def fitted(tmp_path=None, epochs=2, seed=1, **settings):
    keras.utils.set_random_seed(seed)
    objective = settings.pop("objective", PROCESS.objective)
    process = dataclasses.replace(PROCESS, objective=objective)
    parts = {"condition_dropout": 0.5, **process.network_parts(), **settings}
    model = keras_dit.DiTModel(SHAPE, 2, 8, 1, 2, num_classes=3, **parts)
    diffusion = keras_dit.Diffusion(model, process=process, ema=0.9)
    optimizer = keras.optimizers.Adam(1e-2)
    if settings.get("dtype") == "mixed_float16":  # from a scale at which no step is lost
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    diffusion.compile(optimizer, jit_compile=backend.BACKEND == "jax")
    callbacks = []
    if tmp_path is not None:
        callbacks = [keras_dit.checkpoints.Checkpoint(tmp_path, every=0, resume=True)]
    diffusion.fit(0.4 * normal(9, *SHAPE), np.arange(9) % 3, batch_size=4, epochs=epochs, verbose=0,
                  callbacks=callbacks)  # fmt: skip
    return diffusion


def test_a_run_that_goes_on_is_the_run_that_did_not_stop(tmp_path):
    whole = fitted(epochs=2, tmp_path=tmp_path / "whole")
    fitted(epochs=1, tmp_path=tmp_path / "parts", seed=1)
    parts = fitted(epochs=2, tmp_path=tmp_path / "parts", seed=5)
    for one, two in zip(whole.network.weights, parts.network.weights, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(two), err_msg=one.path)
    loss = whole.evaluate(0.4 * normal(4, *SHAPE), np.arange(4) % 3, verbose=0)
    assert 0 < loss < 100
    whole.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert again.process == whole.process
    made = {"labels": [0, 2], "steps": 1, "guidance": guidance.Conditioned(1.5)}
    np.testing.assert_array_equal(again.generate(**made), whole.generate(**made))
    few = sampler.Sampler(whole.denoiser(), steps=2, guidance=guidance.Conditioned(1.5))
    noise = sampler.initial_noise(seed=0, indices=range(2), shape=SHAPE)
    np.testing.assert_allclose(
        numpy(few(noise, np.array([0, 2]))), whole.generate(**{**made, "steps": 2}), atol=1e-5
    )
    assert len(few.input_signature()) == 2
    assert set(whole.network.input_signature()[2]) == {"label", "span", "guidance"}


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "mixed_float16"},
        {"dtype": "mixed_bfloat16"},
        {"objective": MeanFlow(slope=BackwardDifference())},
    ],
    ids=["float16", "bfloat16", "difference"],
)
def test_it_trains(settings):
    diffusion = fitted(epochs=1, **settings)
    assert int(numpy(diffusion.skipped)) == 0
    moved = numpy(diffusion.network.conditions["span"].mlp_out.kernel)
    assert np.abs(moved).max() > 0


@pytest.mark.parametrize("name", ["flow", "sit"])
def test_a_trained_network_is_extended_without_a_change(name):
    process = processes.named(name)
    trained = draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, num_classes=3), 0.05)
    extended, new = adapt.extend(trained, process, MeanFlow())
    assert (new.schedule, new.prediction) == (ReversedFlow(), process.prediction)
    assert set(extended.conditions) == {"label", "span", "guidance"}
    x, y, t = normal(5, *SHAPE), np.array([0, 1, 2, 3, 0]), np.linspace(0.0, 1.0, 5)
    before = numpy(trained(x, process.schedule.timestep(t), y))
    after = numpy(extended(x, new.schedule.timestep(t), y))
    # Of random weights the embedding of 1000 t jumps about, which a smooth one cannot follow.
    tolerance = 0.3 * before.std() if name == "flow" else 1e-6
    assert np.abs(after - before).mean() < tolerance
    diffusion = keras_dit.Diffusion(extended, process=new, ema=None)
    assert diffusion.generate([0], steps=1).shape == (1, *SHAPE)
    again, _ = adapt.extend(extended, new, MeanFlow())
    assert again is extended
    with pytest.raises(ValueError, match="straight paths"):
        adapt.extend(trained, processes.named("ddpm"), MeanFlow())


def test_the_command_trains_tunes_and_samples_in_one_step(tmp_path, capsys):
    data = ["--data", "digits", "--limit", "16", "--batch-size", "16", "--epochs", "1"]
    size = ["--hidden-size", "8", "--depth", "1", "--num-heads", "2", "--patch-size", "4"]
    flow, few, new = (str(tmp_path / name) for name in ("flow", "few", "new"))
    assert main(["train", *data, *size, "--run", flow]) == 0
    assert main(["train", *data, "--from", flow, "--method", "meanflow", "--run", few]) == 0
    assert main(["train", *data, *size, "--method", "meanflow", "--run", new]) == 0
    found = [models.load(run).diffusion.process for run in (few, new)]
    bearable = dataclasses.replace(PROCESS.objective, slope=BackwardDifference())
    changes = {"prediction": predictions.FlowVelocity(), "objective": bearable}
    assert found == [dataclasses.replace(PROCESS, **changes), PROCESS]
    made = ["--labels", "3,7", "--out", str(tmp_path / "it.npy")]
    capsys.readouterr()
    for run in (few, new):
        assert (
            main(["sample", run, *made, "--steps", "1", "--guidance-interval", "0.2", "0.8"]) == 0
        )
    assert "1 step, guidance 2" in capsys.readouterr().out
    assert main(["sample", few, *made, "--guidance-rescale", "0.5"]) == 2
    assert "leave out --guidance-rescale" in capsys.readouterr().err
