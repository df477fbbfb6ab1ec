"""Laws of quantized networks: Keras's formula, the error, files in a fresh process, the command."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, run, weights_of

from keras_dit import Diffusion, DiTModel, processes
from keras_dit.cli import main, models
from keras_dit.layers import TokenDense, gelu_tanh

SIZE = {"input_shape": (4, 4, 1), "patch_size": 2, "hidden_size": 32, "depth": 1, "num_heads": 2}
X = np.random.default_rng(0).standard_normal((2, 4, 4, 1)).astype("float32")
T, Y = np.array([3.0, 700.0], "float32"), np.array([0, 2], "int32")


def make():
    return draw_weights(DiTModel(**SIZE, num_classes=3))


def int8(array, axis):
    """Whole numbers and their scale, 127 over the largest of each slice along the axis."""
    scale = 127 / (np.abs(array).max(axis=axis, keepdims=True) + 1e-7)
    return np.clip(np.round(array * scale), -127, 127), scale


def int4(kernel, block=128):
    """What is left of a kernel of 16 numbers, from the least to the largest, of each block."""
    parts = []
    for part in np.split(kernel, range(block, len(kernel), block)):
        padded = np.pad(part, ((0, block - len(part)), (0, 0)))
        low, high = padded.min(0), padded.max(0)
        scale = (high - low + 1e-8) / 15
        zero = np.clip(np.round(-low / scale) - 8, -8, 7)
        parts.append((np.clip(np.round(part / scale) + zero, -8, 7) - zero) * scale)
    return np.concatenate(parts)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("activation", [None, gelu_tanh])
def test_a_quantized_map_is_kerass_formula(mode, activation):
    """int8: y = x_int W_int / (s_x s_W) + b, s of each token and output; int4 leaves x alone."""
    draw = np.random.default_rng(1).standard_normal
    layer = TokenDense(6, activation=activation)
    layer.build((None, 5, 160))
    kernel, bias, x = (draw(shape).astype("float32") for shape in ((160, 6), (6,), (2, 5, 160)))
    layer.set_weights([kernel, bias])
    layer.quantize(mode)
    if mode == "int8":
        (integers, scale), (inputs, inputs_scale) = int8(kernel, 0), int8(x, -1)
        expected = inputs.astype("float64") @ integers / (scale * inputs_scale) + bias
    else:
        expected = x.astype("float64") @ int4(kernel) + bias
    if activation is not None:
        expected = ops.convert_to_numpy(gelu_tanh(ops.convert_to_tensor(expected, "float32")))
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "bound"), [("int8", 0.03), ("int4", 0.3)])
def test_a_quantized_network_is_near_the_one_it_was(mode, bound):
    network = make()
    expected = run(network, X, T, Y)
    network.quantize(mode)
    error = run(network, X, T, Y) - expected
    assert 0 < np.sqrt(np.mean(error**2)) < bound * expected.std()


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="mode must be int8 or int4"):
        make().quantize("float8")


FRESH = """
import sys, keras, numpy as np
import keras_dit
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[2], model.generate([0, 1], steps=1))
"""


def test_the_command_quantizes_and_a_fresh_process_samples_the_same(tmp_path, capsys):
    model = Diffusion(make(), ema=0.9)
    model.save(tmp_path / "float.keras")
    for mode in ("int8", "int4"):
        file = tmp_path / f"{mode}.keras"
        assert main(["convert", str(tmp_path / "float.keras"), str(file), "--quantize", mode]) == 0
        assert f"as {mode}" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "int4.keras")]) == 0
    assert "matrices as int4" in capsys.readouterr().out
    loaded = keras.saving.load_model(tmp_path / "int8.keras")
    made = loaded.generate([0, 1], steps=1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", FRESH, tmp_path / "int8.keras", tmp_path / "made.npy"]
    subprocess.run(arguments, check=True, env=environment)
    np.testing.assert_array_equal(np.load(tmp_path / "made.npy"), made)
    model.network.quantize("int8")
    for name, value in weights_of(loaded.network).items():
        np.testing.assert_array_equal(value, weights_of(model.network)[name])


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_a_model_samples_in_any_dtype_without_a_file_of_its_own(tmp_path, capsys, dtype):
    """What it gives is what the converted network gives, and near what it gave."""
    flow = {"process": processes.named("flow")}
    diffusion = Diffusion(make(), ema=0.9, **flow)
    diffusion.save(tmp_path / "float.keras")
    how = ("--labels", "0,2", "--steps", "1", "--guidance", "1")
    where = ("--out", str(tmp_path / "made.npy"))
    assert main(["sample", str(tmp_path / "float.keras"), *how, *where, "--dtype", dtype]) == 0
    assert f"of the average of the weights, as {dtype};" in capsys.readouterr().out
    made = np.load(tmp_path / "made.npy")
    network = diffusion.sampling_network(dtype)
    same = Diffusion(network, ema=None, **flow).generate([0, 2], steps=1)
    np.testing.assert_array_equal(made, same)
    error = np.sqrt(np.mean((made - diffusion.generate([0, 2], steps=1)) ** 2)) / made.std()
    bounds = {"float32": 0, "bfloat16": 0.05, "float16": 0.01, "int8": 0.05, "int4": 0.5}
    assert error <= bounds[dtype]
    assert (error > 0) == (dtype != "float32")
    held = {w.dtype for w in network.weights if keras.backend.is_float_dtype(w.dtype)}
    assert held == {dtype if "float" in dtype else "float32"}


def test_integers_stay_integers():
    network = make()
    network.quantize("int8")
    with pytest.raises(ValueError, match=r"are int8 and stay so.*Received: dtype='bfloat16'"):
        network.copied(dtype="bfloat16")
    assert network.copied().quantized == ("int8",)


def test_integers_go_into_a_keras_file_only(tmp_path, capsys):
    Diffusion(make(), ema=None).save(tmp_path / "float.keras")
    target = tmp_path / "it.safetensors"
    assert main(["convert", str(tmp_path / "float.keras"), str(target), "--quantize", "int8"]) == 2
    assert "--quantize is for a .keras file" in capsys.readouterr().err
