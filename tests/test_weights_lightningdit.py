"""Laws of LightningDiT's files: they load, sample and go back as the original has them."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import guidance, objectives, predictions, processes, schedules, solvers, weights
from keras_dit.weights.files import pytorch
from keras_dit.weights.files.stored import Stored

GOLDENS = pathlib.Path(__file__).parent / "goldens"


def golden(name):
    with np.load(GOLDENS / f"lightningdit_{name}.npz") as arrays:
        return dict(arrays)


def write(state, path):
    pytorch.write({k: Stored(v.shape, lambda v=v: v) for k, v in state.items()}, path)
    return path


def state(arrays):
    return {name: array for name, array in arrays.items() if "/" not in name}


def last(x):
    return np.transpose(x, (0, 2, 3, 1))


@pytest.fixture(params="ab")
def case(request, tmp_path):
    """The arrays of a network, and its file as its train.py writes it on several devices."""
    arrays = golden(request.param)
    path = write({f"module.{k}": v for k, v in state(arrays).items()}, tmp_path / "lightningdit.pt")
    return arrays, path


def test_the_network_is_the_original(case):
    arrays, path = case
    network = weights.load(path)
    x, t, y = (arrays[f"run/{name}"] for name in "xty")
    cotangent = ops.convert_to_tensor(last(arrays["run/cotangent"]))

    def run(x):
        return network(x, ops.convert_to_tensor(t), ops.convert_to_tensor(y))

    output = ops.convert_to_numpy(run(ops.convert_to_tensor(last(x))))
    expected = last(arrays["run/output"])
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    variable = keras.Variable(last(x))
    gradients, _ = keras_dit.backend.gradients(
        lambda: (ops.sum(run(ops.convert_to_tensor(variable)) * cotangent),) * 2, [variable], []
    )
    expected = last(arrays["grad/x"])
    gradient = ops.convert_to_numpy(gradients[0])
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def test_a_run_is_that_of_the_original(case):
    """Its 11 points of time are ten steps; its t is 1 minus ours."""
    arrays, path = case
    diffusion = keras_dit.Diffusion.from_preset(path)
    assert diffusion.process == processes.named("lightningdit")
    assert diffusion.codec == keras_dit.codecs.Latents(1.0)
    denoiser = guidance.ClassifierFree(guidance.Interval(6.7, low=0.0, high=0.875), channels=3)(
        diffusion.denoiser(), ops.convert_to_tensor(arrays["run/labels"])
    )
    x0 = keras_dit.sampler.sample(
        denoiser,
        ops.convert_to_tensor(last(arrays["run/noise"])),
        diffusion.schedule,
        steps=10,
        solver=solvers.Euler(),
        grid=schedules.ShiftedGrid(1 / 0.3),
    )
    expected = last(arrays["run/sampled"])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ops.convert_to_numpy(x0), expected, rtol=0, atol=1e-5 * scale)


def test_an_export_holds_the_tensors_of_the_original(case, tmp_path):
    arrays, path = case
    weights.export(weights.load(path), tmp_path / "back.pt")
    back, expected = pytorch.read(tmp_path / "back.pt"), state(arrays)
    assert back.keys() == expected.keys()
    for name, array in expected.items():
        read = back[name].read()
        assert read.shape == array.shape
        np.testing.assert_allclose(read, array, rtol=0, atol=3e-7, err_msg=name)
    again = keras_dit.Diffusion.from_preset(tmp_path / "back.pt")
    assert again.network.config["block"] == weights.load(path).config["block"]
    assert again.process == processes.named("lightningdit")


def test_a_keras_file_keeps_its_parts(tmp_path):
    arrays = golden("a")
    diffusion = keras_dit.Diffusion.from_preset(write(state(arrays), tmp_path / "l.pt"))
    diffusion.save(tmp_path / "l.keras")
    again = keras.saving.load_model(tmp_path / "l.keras")
    for one, other in zip(diffusion.network.weights, again.network.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
    assert isinstance(again.network.final.norm, keras_dit.layers.RMSNorm)


@pytest.mark.parametrize("name", "ab")
def test_the_loss_is_that_of_the_original(name):
    arrays = golden(name)
    output, target = (
        ops.convert_to_tensor(last(arrays[f"run/{n}"])) for n in ("output", "cotangent")
    )
    batch = objectives.Batch(target, ops.zeros_like(target))  # x0 − noise is then the target
    process = processes.named("lightningdit")
    rates = process.schedule(np.full(len(arrays["run/t"]), 0.5, "float32"))
    loss = process.objective.loss(lambda x_t, rates: output, batch, rates, process)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), arrays["run/loss"], rtol=1e-5)


def test_a_new_network_has_a_gradient_of_ordinary_size():
    """It gives 0, which has no direction."""
    output = keras.Variable(np.zeros((1, 2, 2, 4), "float32"))
    batch = objectives.Batch(ops.ones((1, 2, 2, 4)), ops.zeros((1, 2, 2, 4)))
    process = processes.named("lightningdit")
    rates = process.schedule(np.full(1, 0.5, "float32"))

    def loss():
        evaluate = lambda x_t, rates: ops.convert_to_tensor(output)  # noqa: E731
        mean = ops.mean(process.objective.loss(evaluate, batch, rates, process))
        return mean, mean

    (gradient,), _ = keras_dit.backend.gradients(loss, [output], [])
    gradient = ops.convert_to_numpy(gradient)
    assert np.all(np.isfinite(gradient))
    assert 0 < np.abs(gradient).max() < 100


@pytest.mark.parametrize(
    "preset, parameters", [("lightningdit_xl_1", 675), ("lightningdit_b_1", 130)]
)
def test_a_preset_has_the_parts_and_about_the_published_size(preset, parameters):
    config = keras_dit.networks.preset_config(preset)
    shape = {"input_shape": (16, 16, 32), "num_classes": 1000}
    count = keras_dit.networks.count_parameters({**config, **shape})
    assert abs(count / 1e6 - parameters) < 0.01 * parameters
    assert isinstance(config["block"].get_config()["norm"], list)


def test_what_is_not_supported_is_said(tmp_path):
    arrays = state(golden("a"))
    shiftless = {
        k: v[: len(v) * 2 // 3] if "blocks" in k and "adaLN" in k else v for k, v in arrays.items()
    }
    with pytest.raises(ValueError, match="wo_shift"):
        weights.load(write(shiftless, tmp_path / "shiftless.pt"))
    headless = {k: v for k, v in arrays.items() if "rope" not in k}
    with pytest.raises(ValueError, match="how many heads"):
        weights.load(write(headless, tmp_path / "headless.pt"))
    network = weights.load(write(arrays, tmp_path / "l.pt"))
    with pytest.raises(ValueError, match="other parts than DiT's"):
        weights.export(network, tmp_path / "folder", format="diffusers")
    assert (
        predictions.DataVelocity() == keras_dit.Diffusion.from_preset(tmp_path / "l.pt").prediction
    )
