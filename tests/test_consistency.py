"""Laws of objectives.Consistency: the foreign loss, the function it is least for, its progress."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, gradients

import keras_dit
from keras_dit import backend, predictions, processes, schedules
from keras_dit.cli import recipe
from keras_dit.objectives import Batch, Consistency, TimeGap
from keras_dit.schedules import Rates

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens/consistency.npz")
SHAPE = (4, 4, 1)
TUNED = processes.named("consistency")
X = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype("float32")
Y = np.arange(8) % 2


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def network(seed=0):
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, num_classes=2), seed=seed)


# The foreign loss


@pytest.mark.parametrize("case", range(len(GOLDEN["cases"])))
def test_the_loss_is_that_of_easy_consistency_tuning(case):
    q, c, k, stage = GOLDEN["cases"][case]
    sigma, r = GOLDEN[f"t_{case}"], GOLDEN[f"r_{case}"]
    gap = TimeGap(q=float(q), stages=int(stage) + 1, k=float(k))
    np.testing.assert_allclose(numpy(gap.nearer(sigma, None)), r, rtol=2e-5, atol=1e-7)
    size = np.prod(GOLDEN["images"].shape[1:])
    objective = Consistency(gap=gap, c=max(float(c) / np.sqrt(size), 1e-7))
    schedule = schedules.EDM()
    process = processes.Process(schedule, predictions.CleanSample(), objective)

    def evaluate(x, rates):
        t = ops.reshape(rates.sigma, (-1, 1, 1, 1))
        return x / (1 + t**2) + ops.tanh(x) / 3

    batch = Batch(*map(ops.convert_to_tensor, (GOLDEN["images"], GOLDEN[f"noise_{case}"])))
    rates = schedule(schedule.time_of(sigma))
    loss = numpy(objective.loss(evaluate, batch, rates, process))
    # Theirs is of the sum over an image's numbers, ours of their mean.
    np.testing.assert_allclose(loss * np.sqrt(size), GOLDEN[f"loss_{case}"], rtol=2e-3)


@pytest.mark.parametrize(
    "schedule",
    [schedules.RectifiedFlow(), schedules.RectifiedFlow(3.0), schedules.ReversedFlow(),
     schedules.EDM()],
    ids=repr,
)  # fmt: skip
def test_a_schedule_knows_its_times(schedule):
    t = np.linspace(0.01, 0.99, 13, dtype="float32")
    np.testing.assert_allclose(numpy(schedule.time_of(schedule(t).sigma)), t, rtol=1e-5)


# What it is least for: data N(0, s²), whose paths end at x s / √(α² s² + σ²)

DEVIATION = 0.6
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)


def slope(function, gap, t=0.7):
    """∂ expected loss / ∂ the size of f(x_t, t), the square of the error as the distance."""
    x0, noise = (a.reshape(-1, 1).astype("float32") for a in np.meshgrid(NODES, NODES))
    weights = np.outer(WEIGHTS, WEIGHTS).reshape(-1) / WEIGHTS.sum() ** 2
    objective = Consistency(gap=TimeGap(q=1 / gap, k=0.0), c=100.0)
    process = dataclasses.replace(TUNED, objective=objective)
    batch = Batch(*map(ops.convert_to_tensor, (DEVIATION * x0, noise)))
    rates = process.schedule(np.full(len(x0), t, "float32"))
    losses = []
    for size in (1.02, 0.98):

        def evaluate(x, at, size=size):
            here = at is rates
            sigma = ops.reshape(at.sigma, (-1, 1))
            end = x * function(sigma) * (size if here else 1.0)
            return (x - end) / sigma

        loss = numpy(objective.loss(evaluate, batch, rates, process)).astype("float64")
        losses.append(200.0 * loss @ weights)
    return (losses[0] - losses[1]) / 0.04


def test_the_end_of_the_path_is_where_it_is_least():
    """There its slope falls as the gap does; the mean of x0, which trained it, has another."""

    def end(sigma):
        return DEVIATION / ops.sqrt((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)

    def mean(sigma):
        power = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
        return (1 - sigma) * DEVIATION**2 / power

    slopes = [slope(end, gap) for gap in (0.4, 0.2, 0.1)]
    ratios = np.array(slopes[1:]) / np.array(slopes[:-1])
    assert ((ratios > 0.3) & (ratios < 0.6)).all(), slopes
    others = [abs(slope(mean, gap)) for gap in (0.2, 0.1)]
    assert 0.8 < others[1] / others[0] < 1.25


def test_far_gaps_regress_on_the_data():
    """With r at 0 the target is the image, and small errors count by their squares."""
    objective = Consistency(gap=TimeGap(q=1.5, k=8.0), c=50.0)
    process = dataclasses.replace(TUNED, objective=objective)
    t = np.array([0.2, 0.9], "float32")
    assert (numpy(objective.gap.nearer(t, None)) == 0).all()
    x0, noise = np.random.default_rng(1).standard_normal((2, 2, 3)).astype("float32")
    batch, rates = Batch(*map(ops.convert_to_tensor, (x0, noise))), process.schedule(t)
    x_t = numpy(batch.noisy(rates))
    loss = numpy(objective.loss(lambda x, at: 0.3 * x, batch, rates, process))
    error = np.mean((x_t - t[:, None] * 0.3 * x_t - x0) ** 2, axis=1)
    np.testing.assert_allclose(loss * t * 100, error, rtol=2e-3)


# Training


def test_the_target_sends_no_gradient_back():
    """f is a network of one weight, x + σ w x: the slope is that of f(x_t, t), the target held."""
    t, weight = np.array([0.6, 0.8], "float32"), 0.7
    x0, noise = np.random.default_rng(1).standard_normal((2, 2, 3)).astype("float32")
    batch, rates = Batch(*map(ops.convert_to_tensor, (x0, noise))), TUNED.schedule(t)

    def loss(w, held=None):
        def evaluate(x, at):
            return -(w if held is None or at is rates else held) * x

        return ops.sum(TUNED.objective.loss(evaluate, batch, rates, TUNED))

    (slope,) = gradients(loss, np.float32(weight))
    other = [float(numpy(loss(weight + d, held=weight))) for d in (0.01, -0.01)]
    assert float(slope) == pytest.approx((other[0] - other[1]) / 0.02, rel=1e-2)
    both = [float(numpy(loss(weight + d))) for d in (0.01, -0.01)]
    assert float(slope) != pytest.approx((both[0] - both[1]) / 0.02, rel=0.1)


def test_gaps_follow_the_steps_and_go_on_bit_for_bit(tmp_path):
    gap = TimeGap(q=2.0, stages=3, every=3, k=0.0)
    nearer = [float(numpy(gap.nearer(1.0, ops.convert_to_tensor(n)))) for n in range(11)]
    assert nearer == [0.5] * 3 + [0.75] * 3 + [0.875] * 5
    process = dataclasses.replace(TUNED, objective=Consistency(gap=gap))

    def run(folder, epochs):
        keras.utils.set_random_seed(3)
        diffusion = keras_dit.Diffusion(network(), process=process)
        diffusion.compile(keras.optimizers.Adam(1e-2), jit_compile=backend.BACKEND == "jax")
        checkpoint = keras_dit.checkpoints.Checkpoint(tmp_path / folder, 0.0, resume=True)
        diffusion.fit(X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=[checkpoint])
        return [np.array(numpy(v)) for v in diffusion.network.weights]

    whole = run("whole", 2)
    run("parts", 1)  # stops within the second stage
    for one, other in zip(whole, run("parts", 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_at_the_end_of_the_path_steps_do_not_matter():
    """One image: its consistency function is known, and any number of steps gives the image."""
    image = np.linspace(-1, 1, 16, dtype="float32").reshape(1, *SHAPE)

    def denoise(x, rates):
        return keras_dit.Denoised(ops.zeros_like(x) + ops.convert_to_tensor(image))

    noise = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype("float32")
    for steps, solver in ((1, keras_dit.solvers.DDIM()), (2, keras_dit.solvers.LCM())):
        made = keras_dit.sampler.sample(
            denoise, noise, TUNED.schedule, steps=steps, solver=solver, seed=0
        )
        np.testing.assert_allclose(numpy(made), image, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeGap(q=1.0), "q must be above 1"),
        (lambda: TimeGap(stages=0), "stages an integer of 1 or more"),
        (lambda: TimeGap(every=2.5), "every one too"),
        (lambda: Consistency(c=0.0), "c must be above 0"),
        (lambda: Consistency(gap=4.0), "gap must be an object of a TimeGap class"),
        (lambda: processes.Process(schedules.LinearBeta(), predictions.V(), Consistency()),
         "needs a schedule in continuous time"),
        (lambda: processes.Process(schedules.EDM(), predictions.Noise(), Consistency()),
         "needs a prediction with an x0 at each time"),
        (lambda: schedules.LinearBeta().time_of(0.5), None),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError if message else NotImplementedError, match=message):
        make()


def test_tuning_keeps_what_the_network_was_trained_as():
    plain = keras_dit.DiTModel(SHAPE, 2, 16, 1, 2)
    for name in ("edm", "sit", "flow"):
        begun = processes.named(name)
        tuned = recipe.process("consistency", plain, begun)
        assert tuned == dataclasses.replace(begun, objective=TUNED.objective)
    with pytest.raises(ValueError, match="needs a schedule in continuous time"):
        recipe.process("consistency", plain, processes.named("ddpm"))


def test_rates_of_any_form_have_a_time():
    sigma = np.float32(0.3)
    assert isinstance(TUNED.schedule(TUNED.schedule.time_of(sigma)), Rates)
