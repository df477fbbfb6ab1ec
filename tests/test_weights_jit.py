"""Laws of JiT's checkpoints: they load, sample and go back as the original has them."""

import argparse
import pathlib
import pickle

import numpy as np
import pytest
from keras import ops
from reference import gradients, run

import keras_dit
from keras_dit import guidance, objectives, predictions, schedules, solvers, weights
from keras_dit.cli import main
from keras_dit.weights.files import pytorch
from keras_dit.weights.files.stored import Stored

GOLDENS = pathlib.Path(__file__).parent / "goldens"
STARTS = {"a": 1, "b": 0}  # a file does not say it


def golden(name):
    with np.load(GOLDENS / f"jit_{name}.npz") as arrays:
        return dict(arrays)


def state(arrays):
    return {name: array for name, array in arrays.items() if name.startswith("net.")}


def write(state, path, names=("model", "model_ema1")):
    tensors = {k: Stored(v.shape, lambda v=v: v) for k, v in state.items()}
    pytorch.write(tensors, path, names=names)
    return path


def last(x):
    return np.transpose(x, (0, 2, 3, 1))


@pytest.fixture(params="ab")
def case(request, tmp_path):
    """The arrays of a network, its file, and what the file leaves open."""
    arrays = golden(request.param)
    path = write(state(arrays), tmp_path / "jit.pth")
    return arrays, path, {"in_context_start": STARTS[request.param]}


def process(arrays):
    settings = {k.removeprefix("args/"): v.item() for k, v in arrays.items() if "args/" in k}
    return weights.jit.process(settings, 4)


def close(found, expected, tolerance):
    found = ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_network_is_the_original(case):
    arrays, path, given = case
    network = weights.load(path, **given)
    x, t, y = (arrays[f"run/{name}"] for name in "xty")
    close(run(network, last(x), t, y), last(arrays["run/output"]), 3e-6)
    cotangent = ops.convert_to_tensor(last(arrays["run/cotangent"]))
    (gradient,) = gradients(lambda x: ops.sum(network(x, t, y) * cotangent), last(x))
    close(gradient, last(arrays["grad/x"]), 5e-6)


@pytest.mark.parametrize(
    "solver", [solvers.Heun(), solvers.Euler()], ids=lambda s: type(s).__name__
)
def test_a_run_is_that_of_the_original(case, solver):
    """Ten steps; its t is 1 minus ours, so guidance within its (0.15, 1) is one below 0.85."""
    arrays, path, given = case
    diffusion = keras_dit.Diffusion.from_preset(path, process=process(arrays), **given)
    denoiser = guidance.ClassifierFree(guidance.Interval(2.5, low=0.0, high=0.85))(
        diffusion.denoiser(), ops.convert_to_tensor(arrays["run/labels"])
    )
    x0 = keras_dit.sampler.sample(
        denoiser,
        ops.convert_to_tensor(last(arrays["run/noise"])),
        diffusion.schedule,
        steps=10,
        solver=solver,
    )
    expected = last(arrays[f"run/{type(solver).__name__.lower()}"])
    scaled = diffusion.schedule.noise_scale != 1 and isinstance(solver, solvers.Heun)
    close(x0, expected, 0.05 if scaled else 1e-5)


def test_the_loss_is_that_of_the_original(case):
    arrays, path, given = case
    trained = process(arrays)
    network = weights.load(path, **given)
    x0, noise = (ops.convert_to_tensor(last(arrays[f"run/{n}"])) for n in ("x", "cotangent"))
    rates = trained.schedule(1.0 - arrays["run/loss_t"])
    # The noise of the original comes with its scale.
    batch = objectives.Batch(x0, noise)

    def evaluate(x_t, rates):
        output = run(network, x_t, trained.schedule.timestep(rates.t), arrays["run/y"])
        return ops.convert_to_tensor(output)

    loss = trained.objective.loss(evaluate, batch, rates, trained)
    np.testing.assert_allclose(ops.convert_to_numpy(loss), arrays["run/loss"], rtol=2e-5)


def test_an_export_holds_the_tensors_of_the_original(case, tmp_path):
    arrays, path, given = case
    network = weights.load(path, **given)
    weights.export(network, tmp_path / "back.pth", format="jit", process=process(arrays))
    content = pytorch.read(tmp_path / "back.pth")
    assert content.keys() == {"model", "model_ema1", "model_ema2"}
    for back in content.values():
        assert back.keys() == state(arrays).keys()
        for name, array in state(arrays).items():
            np.testing.assert_allclose(back[name].read(), array, rtol=0, atol=3e-7, err_msg=name)
    again = keras_dit.Diffusion.from_preset(tmp_path / "back.pth")
    assert again.process == process(arrays)
    assert again.network.config == network.config


def test_a_file_of_its_training_says_how_it_was_trained(tmp_path):
    """Its settings are an argparse.Namespace, as in every program of this family."""
    arrays = golden("b")
    path = write(state(arrays), tmp_path / "jit.pth")
    settings = argparse.Namespace(P_mean=-0.4, P_std=1.0, t_eps=0.1, noise_scale=2.0)
    checkpoint = with_args(path, settings, tmp_path / "checkpoint-last.pth")
    diffusion = keras_dit.Diffusion.from_preset(checkpoint, in_context_start=0)
    assert diffusion.schedule == schedules.ReversedFlow(2.0)
    assert diffusion.prediction == predictions.FlooredSample(0.1)
    assert diffusion.objective == objectives.MeanSquaredError(
        objectives.LogitNormalTimes(0.4, 1.0), objectives.VelocityWeighting()
    )


def with_args(path, settings, target):
    """A checkpoint with `args` beside its weights, as pickle writes them."""
    import zipfile

    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as new:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                written = pickle.dumps({"args": settings}, protocol=2)
                items = written[written.index(b"X") : written.rindex(b"s.")]  # the one key, value
                data = data[:-2] + items + b"u."
            new.writestr(name, data)
    return target


def test_the_average_is_taken(tmp_path):
    arrays = state(golden("b"))
    path = write(arrays, tmp_path / "jit.pth", names=("model",))
    source = weights.open_source(path)
    assert "raw weights" in source.notes[0]
    path = write(arrays, tmp_path / "jit.pth", names=("model", "model_ema1"))
    assert "first average" in weights.open_source(path).notes[0]


def test_by_the_command_alone(tmp_path, capsys):
    """convert, info and sample."""
    arrays = golden("b")
    network = weights.load(write(state(arrays), tmp_path / "jit.pth"), in_context_start=0)
    diffusion = keras_dit.Diffusion(network, process=process(arrays), ema=None)
    diffusion.save(tmp_path / "jit.keras")
    assert main(["convert", str(tmp_path / "jit.keras"), str(tmp_path / "back.pth")]) == 0
    assert main(["info", str(tmp_path / "back.pth")]) == 0
    assert "FlooredSample" in capsys.readouterr().out
    out = tmp_path / "images.npy"
    options = ["--labels", "0,2", "--steps", "2", "--solver", "heun", "--guidance", "1"]
    options += ["--out", str(out)]
    assert main(["sample", str(tmp_path / "back.pth"), *options]) == 0
    images = np.load(out)
    assert images.shape == (2, 4, 4, 1)
    assert np.isfinite(images).all()


def test_what_a_file_leaves_open_is_asked_for(tmp_path):
    path = write(state(golden("a")), tmp_path / "jit.pth")
    with pytest.raises(ValueError, match=r"which block on .*give in_context_start="):
        weights.load(path)


def test_what_is_not_a_jit_is_said(tmp_path):
    arrays = state(golden("a"))
    less = {name: a for name, a in arrays.items() if "in_context" not in name}
    with pytest.raises(ValueError, match="tensors of a JiT: missing: in_context_posemb"):
        weights.load(write(less, tmp_path / "less.pth"))
    network = weights.load(write(arrays, tmp_path / "jit.pth"), in_context_start=1)
    for target, format in (("jit.pt", "facebook_dit"), ("folder", "diffusers")):
        with pytest.raises(ValueError, match="other parts than DiT's"):
            weights.export(network, tmp_path / target, format=format)
    plain = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=3)
    with pytest.raises(ValueError, match="other parts than JiT's"):
        weights.export(plain, tmp_path / "plain.pth", format="jit")
