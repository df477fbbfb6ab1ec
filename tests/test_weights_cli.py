"""Laws of keras-dit convert and sample on weights from elsewhere."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import Diffusion, weights
from keras_dit.cli import main

FILES = pathlib.Path(__file__).parent / "goldens" / "weights"


def read(path):
    return {name: tensor.read() for name, tensor in weights.open_source(path).tensors.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_file_becomes_a_model_and_goes_back(tmp_path, capsys):
    source, model = FILES / "train.pt", tmp_path / "dit.keras"
    assert main(["convert", str(source), str(model), "--num-heads", "2"]) == 0
    assert "parameters written to" in capsys.readouterr().out
    assert isinstance(keras.saving.load_model(model), Diffusion)
    assert main(["convert", str(model), str(tmp_path / "back.pt")]) == 0
    assert_equal(read(tmp_path / "back.pt"), read(source))


def test_a_folder_of_diffusers_becomes_safetensors_and_goes_back(tmp_path):
    pytest.importorskip("safetensors")
    assert main(["convert", str(FILES / "diffusers"), str(tmp_path / "a.safetensors")]) == 0
    assert main(["convert", str(FILES / "diffusers"), str(tmp_path / "folder")]) == 0
    assert_equal(read(tmp_path / "a.safetensors"), read(FILES / "diffusers"))
    assert_equal(read(tmp_path / "folder"), read(FILES / "diffusers"))


def test_of_a_trained_model_the_average_is_converted(tmp_path):
    diffusion = Diffusion.from_preset(FILES / "legacy.pt", num_heads=2)
    diffusion.compile(keras.optimizers.SGD(0.1))
    latents = np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype("float32")
    for _ in range(3):
        diffusion.train_on_batch(latents, np.array([0, 1]))
    diffusion.save(tmp_path / "trained.keras")
    assert main(["convert", str(tmp_path / "trained.keras"), str(tmp_path / "out.pt")]) == 0
    exported = weights.load(tmp_path / "out.pt", num_heads=2)
    moved = 0.0
    for variable, average, weight in zip(
        exported.weights, diffusion.average.values, diffusion.network.weights, strict=True
    ):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (variable, average)))
        moved = max(moved, float(ops.max(ops.abs(average - weight))))
    assert moved > 0


def test_latents_are_sampled_saved_and_shown(tmp_path, capsys):
    out = tmp_path / "new" / "latents.png"
    options = ["--labels", "0,1", "--steps", "3", "--num-heads", "2", "--out", str(out)]
    assert main(["sample", str(FILES / "legacy.pt"), *options]) == 0
    latents = np.load(out.with_suffix(".npy"))
    expected = Diffusion.from_preset(FILES / "legacy.pt", num_heads=2, ema=None)
    assert latents.shape == (2, 4, 4, 4)
    assert "shown in" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG")
    from keras_dit.guidance import ClassifierFree

    guided = expected.generate(labels=[0, 1], steps=3, guidance=ClassifierFree(2.0))
    np.testing.assert_allclose(latents, guided, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "{files}/legacy.pt", "{out}/x.pt"], "does not say how many heads"),
        (["convert", "{files}/legacy.pt", "{out}/x.onnx"], "TARGET must end in .keras, .pt, "),
        (["convert", "{out}/missing.pt", "{out}/x.keras"], "there is no file or folder"),
        (["sample", "{out}/missing.keras"], "no model at"),
        (["sample", "{out}"], "no model at"),
        (["sample", "{files}/diffusers.npz"], "is a zip file, but not of PyTorch"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    arguments = [argument.format(files=FILES, out=tmp_path) for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
