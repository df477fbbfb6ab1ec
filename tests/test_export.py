"""Laws of what is written for programs without Keras: a network, and a whole run."""

import importlib.util

import numpy as np
import pytest
from keras import ops, tree
from reference import draw_weights

import keras_dit
from keras_dit import backend, guidance, sampler, solvers
from keras_dit.backend import exporting
from keras_dit.conditions import Label, Vector

SHAPE = (4, 4, 1)
FORMATS = {
    "jax": ["tf_saved_model"],  # what jax2onnx makes of them has no open batch
    "torch": ["torch", "onnx"],
    "tensorflow": ["tf_saved_model", "onnx"],
}[backend.BACKEND]
NEEDS = {"onnx": "onnxruntime", "tf_saved_model": "tensorflow", "torch": "torch"}


def network(several=False):
    told = {"label": Label(3), "age": Vector(2)} if several else {"label": Label(3)}
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, conditions=told))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def exported(model, folder, format):
    """What another program has of an exported model: a function of nests of numpy arrays."""
    pytest.importorskip(NEEDS[format])
    missing = exporting.missing_modules(format)
    if missing:
        pytest.skip(f"without {missing}")
    path = str(folder / {"torch": "it.pt2", "onnx": "it.onnx"}.get(format, "it"))
    model.export(path, format=format, verbose=False)
    if format == "torch":
        import torch

        program = torch.export.load(path).module()
        return lambda *given: program(*tree.map_structure(torch.as_tensor, given)).detach().numpy()
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [given.name for given in session.get_inputs()]
        return lambda *given: session.run(None, dict(zip(names, tree.flatten(given))))[0]
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda *given: loaded.serve(*given).numpy()


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_that_is_told_several_things_is_exported(format, tmp_path):
    model = network(several=True)
    serve = exported(model, tmp_path, format)
    for count in (1, 3):
        x, t = draw(count, *SHAPE), np.linspace(0.0, 999.0, count, dtype="float32")
        y = {"label": np.arange(count, dtype="int32"), "age": draw(count, 2)}
        expected = ops.convert_to_numpy(model(x, t, y))
        np.testing.assert_allclose(serve(x, t, y), expected, atol=1e-5)


def diffusion():
    """One whose average is not its weights."""
    made = keras_dit.Diffusion(network(), prediction=keras_dit.predictions.V(), ema=0.5)
    for place, average in enumerate(made.average.by_name().values()):
        average.assign(0.2 * draw(*average.shape, seed=place))
    made.average.updates.assign(3)
    return made


def noises(seed, count, steps):
    own = sampler.HostNoise(seed, range(count), SHAPE, stream=1)
    step_noise = [own.draw() for _ in range(steps - 1)]
    return sampler.initial_noise(seed, range(count), SHAPE), np.stack(step_noise, axis=1)


def test_a_run_as_one_model_gives_what_generate_gives():
    made = diffusion()
    scale = guidance.Interval(2.0, 0.0, 0.7)
    settings = {
        "steps": 4,
        "solver": solvers.DDPM(),
        "guidance": guidance.ClassifierFree(scale),
    }
    expected = made.generate([0, 2, None], seed=7, **settings)
    noise, step_noise = noises(7, 3, 4)
    model = sampler.Sampler(made.denoiser(), **settings)
    found = backend.compile_inference(lambda *given: model(*given))(
        noise, np.array([0, 2, 3], "int32"), step_noise
    )
    np.testing.assert_allclose(np.clip(ops.convert_to_numpy(found), -1, 1), expected, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_run_is_exported(format, tmp_path):
    made = diffusion()
    solver = solvers.DPMSolverPP2MSDE()  # which has a state, and noise
    settings = {"steps": 3, "solver": solver, "guidance": guidance.ClassifierFree(2.0)}
    serve = exported(sampler.Sampler(made.denoiser(), **settings), tmp_path, format)
    expected = made.generate([0, 1, 2], seed=7, **settings)
    for count in (1, 3):
        noise, step_noise = noises(7, count, 3)
        labels = np.arange(count, dtype="int32")
        found = np.clip(serve(noise, labels, step_noise), -1, 1)
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": guidance.ClassifierFree([1.0, 2.0])}, "one scale for all samples"),
        ({"guidance": guidance.NegativeLabel(label=5)}, "label must lie in 0 ... 2"),
        ({"solver": "ddim"}, r"such as solvers.DDIM\(\)"),
        ({"steps": 0}, "steps must be an integer of 1 or more"),
    ],
)
def test_what_makes_no_run_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sampler.Sampler(keras_dit.Diffusion(network(), ema=None).denoiser(), **settings)


def test_what_a_format_needs_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    needs = {"jax": "jax2onnx", "torch": "onnx", "tensorflow": "tf2onnx"}[backend.BACKEND]
    with pytest.raises(ImportError, match=f"needs {needs}.*: pip install {needs}"):
        network().export(tmp_path / "it.onnx", format="onnx")
