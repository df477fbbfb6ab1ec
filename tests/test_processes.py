"""Laws of keras_dit.processes: the named ones train and sample, parts fit or are refused."""

import keras
import numpy as np
import pytest
from reference import draw_weights

import keras_dit
from keras_dit import objectives, predictions, processes, schedules
from keras_dit.processes import Process

SHAPE = (4, 4, 1)


def network(**settings):
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, num_classes=2, **settings))


@pytest.mark.parametrize("name", processes.NAMED)
def test_a_named_process_trains_samples_and_comes_back(name, tmp_path):
    process = processes.named(name)
    learned = isinstance(process.prediction, predictions.LearnedVariance)
    model = network(learned_variance=learned, **process.network_parts())
    diffusion = keras_dit.Diffusion(model, process=process, ema=None)
    assert (diffusion.schedule, diffusion.prediction) == (process.schedule, process.prediction)
    diffusion.compile(keras.optimizers.Adam(1e-3))
    x = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype("float32")
    history = diffusion.fit(x, np.arange(8) % 2, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    images = diffusion.generate([0, 1], steps=3)
    assert np.isfinite(images).all()
    diffusion.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.process == process
    np.testing.assert_allclose(loaded.generate([0, 1], steps=3), images, atol=1e-5)


def test_without_a_process_it_is_as_dit_was_published():
    assert keras_dit.Diffusion(network()).process == processes.named("ddpm")
    learned = keras_dit.Diffusion(network(learned_variance=True))
    assert learned.process == processes.named("dit")


def test_a_part_takes_the_place_of_the_process_s():
    shifted = schedules.RectifiedFlow(3.0)
    diffusion = keras_dit.Diffusion(
        network(), process=processes.named("flow"), schedule=shifted, ema=None
    )
    flow = processes.named("flow")
    assert diffusion.process == Process(shifted, flow.prediction, flow.objective)


def test_doubled_channels_are_a_variance_where_the_network_says_so():
    learned = processes.fitted(processes.named("ddpm"), network(learned_variance=True))
    assert learned == processes.named("dit")
    doubled = network(output_channels=2)
    for name in ("ddpm", "sit"):
        fitted = processes.fitted(processes.named(name), doubled)
        assert fitted.prediction == predictions.HalfUnused(processes.named(name).prediction)
        keras_dit.Diffusion(doubled, process=fitted)
    assert processes.fitted(processes.named("sit"), network()) == processes.named("sit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: processes.named("floww"), "process must be one of flow, "),
        (lambda: Process(schedules.LinearBeta(), "noise"), "prediction must be an object of a cl"),
        (lambda: keras_dit.Diffusion(network(), schedules.RectifiedFlow(), predictions.Noise()),
         "has no signal"),
        (lambda: Process(schedules.LinearBeta(), predictions.Noise(), objectives.Hybrid()),
         "must be a LearnedVariance"),
        (lambda: keras_dit.Diffusion(network(), process="flow"), r"processes.named\(\"flow\"\)"),
        (lambda: keras_dit.Diffusion(network(), process=processes.named("dit")),
         "needs a network with 2 output channels"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Twice(objectives.MeanSquaredError):
    """Notes what each evaluation was told, and at which time."""

    seen = []  # noqa: RUF012

    def loss(self, evaluate, batch, rates, process):
        self.seen.append(batch.condition)
        first = evaluate(batch.noisy(rates), rates)
        later = process.schedule(0.5 * rates.t)
        second = evaluate(batch.noisy(later), later, condition=batch.condition)
        return self.error(first - 0.0 * second, batch, rates, process.prediction)


def test_the_evaluations_of_a_step_are_told_the_same():
    """What a sample loses is drawn once: the batch that the objective sees has it already."""
    net = network(condition_dropout=0.5)
    process = Process(schedules.RectifiedFlow(), predictions.FlowVelocity(), Twice())
    diffusion = keras_dit.Diffusion(net, process=process, ema=None)
    x = np.zeros((64, *SHAPE), "float32")
    loss = diffusion.compute_loss(x, np.zeros(64, "int32"), training=True)
    assert np.isfinite(float(loss))
    told = keras.ops.convert_to_numpy(Twice.seen[-1])
    assert set(told) == {0, 2}  # its class, or no class
