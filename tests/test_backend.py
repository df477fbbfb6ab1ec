"""Laws of keras_dit.backend: which backend is used, attention, compiling for inference."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops
from reference import attention, gradients

import keras_dit
from keras_dit import backend
from keras_dit.backend import compiling, selection

NAMES = ("jax", "torch", "tensorflow")
HERE = keras.config.backend()


def run(code, home, **environment):
    """Run Python with a Keras folder of its own and without this process's choice of backend."""
    environment = {**os.environ, "KERAS_HOME": str(home), **environment}
    if not environment.get("KERAS_BACKEND", "") or environment["KERAS_BACKEND"] == "unset":
        environment.pop("KERAS_BACKEND", None)
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def configure(home, text):
    (home / "keras.json").write_text(text)


# Which backend


@pytest.mark.parametrize("name", ["numpy", "openvino", "nonsense"])
@pytest.mark.parametrize("by_file", [False, True])
def test_an_unusable_backend_is_refused_early(tmp_path, name, by_file):
    if by_file:
        configure(tmp_path, json.dumps({"backend": name}))
    result = run("import keras_dit", tmp_path, KERAS_BACKEND="unset" if by_file else name)
    assert result.returncode == 1
    expected = f"KERAS_BACKEND must be jax, torch or tensorflow. Received: KERAS_BACKEND={name}"
    assert result.stderr.strip().endswith(f"ImportError: {expected}")


@pytest.mark.parametrize("name", [n for n in NAMES if not selection.installed(n)])
def test_a_backend_that_is_not_installed_is_named_with_the_remedy(tmp_path, name):
    result = run("import keras_dit", tmp_path, KERAS_BACKEND=name)
    assert result.returncode == 1
    assert f"the backend {name} is not installed" in result.stderr
    assert f"pip install {name}" in result.stderr


def test_nothing_is_imported_before_the_refusal(tmp_path):
    code = (
        "import sys\n"
        "try:\n    import keras_dit\n"
        "except ImportError:\n"
        "    print({'keras', 'jax', 'torch', 'tensorflow'} & set(sys.modules))"
    )
    assert run(code, tmp_path, KERAS_BACKEND="nonsense").stdout.strip() == "set()"


def test_the_command_says_it_in_one_line(tmp_path):
    code = "import sys; sys.argv = ['keras-dit']; import keras_dit"
    result = run(code, tmp_path, KERAS_BACKEND="nonsense")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("keras-dit: error: KERAS_BACKEND must be")


@pytest.mark.parametrize("command", [True, False])
def test_the_library_leaves_the_process_to_who_imports_it(tmp_path, command):
    """It ends no process and catches no output: that is for the command, and its start alone."""
    code = (
        "import os, sys\n"
        f"sys.argv = ['{'keras-dit' if command else 'program.py'}']\n"
        "ends, os.dup2 = [], lambda *_: ends.append(1)\n"
        "import keras_dit\n"
        "print(bool(ends))"
    )
    result = run(code, tmp_path, KERAS_BACKEND=HERE)
    assert result.stdout.strip() == str(command)
    source = pathlib.Path(backend.__file__).parent
    for word in ("argv", "SystemExit", "dup2"):
        assert not any(word in path.read_text() for path in source.glob("*.py"))


SET_UP = {
    "jax": "import jax; jax.config.update('jax_num_cpu_devices', 2);"
    "assert len(jax.devices('cpu')) == 2",
    "tensorflow": "import tensorflow as tf; cpu, = tf.config.list_physical_devices('CPU');"
    "tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])",
    "torch": "import torch; assert not torch.cuda.is_initialized()",
}


def test_devices_can_be_set_up_after_the_import(tmp_path):
    """To import the library computes nothing: whoever does it may still choose devices."""
    result = run(f"import keras_dit; {SET_UP[HERE]}", tmp_path, KERAS_BACKEND=HERE)
    assert result.returncode == 0, result.stderr


def test_the_command_starts_without_notices(tmp_path):
    """TensorFlow's, of processors and absent CUDA; with standard error closed it starts too."""
    for options in ("", " 2>&-"):
        result = subprocess.run(
            f"{sys.executable} -m keras_dit info dit_s_8{options}",
            shell=True,
            env={**os.environ, "KERAS_BACKEND": HERE, "KERAS_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "dit_s_8" in result.stdout


@pytest.mark.parametrize("text", [None, "{not json", "{}", json.dumps({"backend": HERE})])
def test_the_file_of_keras_counts_where_the_environment_is_silent(tmp_path, monkeypatch, text):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if text is not None:
        configure(tmp_path, text)
    assert selection.configured() == (HERE if text and HERE in text else None)
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # the environment wins
    assert selection.configured() == "torch"


def test_an_installed_backend_is_found_without_a_choice(tmp_path):
    """Keras writes "tensorflow" into its file at the first import, whatever is installed."""
    configure(tmp_path, json.dumps({"backend": "tensorflow"}))
    code = "import keras_dit, keras; print(keras.config.backend())"
    installed = [name for name in NAMES if selection.installed(name)]
    expected = "tensorflow" if "tensorflow" in installed else installed[0]
    assert run(code, tmp_path, KERAS_BACKEND="unset").stdout.strip() == expected


# Attention


def draw(*shape, count=1, seed=0):
    generator = np.random.default_rng(seed)
    arrays = [generator.standard_normal(shape).astype("float32") for _ in range(count)]
    return arrays if count > 1 else arrays[0]


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 8), (3, 2, 16, 6)])
@pytest.mark.parametrize("size", [1.0, 30.0])  # the second makes of softmax an argmax
def test_attention_is_softmax_of_products(shape, size):
    q, k, v = draw(*shape, count=3)
    q = size * q
    value = ops.convert_to_numpy(backend.attention(*map(ops.convert_to_tensor, (q, k, v))))
    expected = attention(*(part.astype("float64") for part in (q, k, v)))
    np.testing.assert_allclose(value, expected, atol=2e-6 * size)


def test_attention_survives_logits_beyond_the_exponential():
    q = np.full((1, 1, 2, 4), 100.0, "float32")
    k = np.array([[100.0] * 4, [-100.0] * 4], "float32")[None, None]
    v = np.array([[1.0] * 4, [2.0] * 4], "float32")[None, None]
    value = ops.convert_to_numpy(backend.attention(*map(ops.convert_to_tensor, (q, k, v))))
    np.testing.assert_allclose(value, 1.0)


def test_gradients_of_attention_are_its_slopes():
    """Against finite differences of the float64 formula."""
    *qkv, cotangent = draw(1, 2, 3, 4, count=4, seed=1)

    def function(q, k, v):
        return ops.sum(ops.multiply(backend.attention(q, k, v), cotangent))

    found = gradients(function, *qkv)
    direction, h = draw(3, 1, 2, 3, 4, seed=2).astype("float64"), 1e-5
    for i in range(3):

        def value(step, i=i):
            moved = [part.astype("float64") for part in qkv]
            moved[i] = moved[i] + step * direction[i]
            return (attention(*moved) * cotangent).sum()

        slope = (value(h) - value(-h)) / (2 * h)
        np.testing.assert_allclose((found[i] * direction[i]).sum(), slope, rtol=1e-5, atol=1e-6)


def test_attention_keeps_its_dtype():
    q, k, v = (ops.cast(part, "bfloat16") for part in draw(1, 2, 8, 4, count=3))
    value = backend.attention(q, k, v)
    assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
    q, k, v, value = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (q, k, v, value))
    np.testing.assert_allclose(value, attention(q, k, v), atol=0.02)


# Compiling


class Pair(NamedTuple):
    first: Any
    second: Any


def test_a_compiled_function_takes_and_gives_structures():
    def function(weights, pair, nothing, state):
        assert nothing is None
        assert isinstance(pair, Pair)
        return Pair(pair.second, weights[0] * pair.first), state, {"sum": ops.sum(weights[1])}

    weights = [ops.convert_to_tensor(part) for part in draw(2, 3, count=2)]
    pair = Pair(ops.convert_to_tensor(2.0), ops.convert_to_tensor(3.0))
    for state in (None, ops.convert_to_tensor(1.0)):
        result, again, named = backend.compile_inference(function)(weights, pair, None, state)
        assert isinstance(result, Pair)
        assert float(result.first) == 3.0
        expected = 2.0 * ops.convert_to_numpy(weights[0])
        np.testing.assert_array_equal(ops.convert_to_numpy(result.second), expected)
        assert (again is None) == (state is None)
        np.testing.assert_allclose(
            float(named["sum"]), ops.convert_to_numpy(weights[1]).sum(), 1e-6
        )


def test_a_function_is_traced_once_for_each_shape():
    traces = []

    def function(x, rate):
        traces.append(x.shape)
        return x * rate

    compiled = backend.compile_inference(function)
    for size in (2, 3, 2, 3, 2, 3):
        for rate in (0.5, 0.25):
            x = draw(size)
            value = compiled(ops.convert_to_tensor(x), ops.convert_to_tensor(rate))
            np.testing.assert_array_equal(ops.convert_to_numpy(value), x * np.float32(rate))
    # torch: two calls as they are before what they do is recorded
    assert len(traces) == (6 if HERE == "torch" else 2)


@pytest.mark.parametrize("jit_compile", [True, False, "auto"])
def test_every_form_gives_the_same(jit_compile):
    if HERE == "torch" and jit_compile is True and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")

    def function(weights, x, state):
        hidden = backend.linear_gelu(x, *weights)
        return hidden, None if state is None else state + ops.sum(hidden)

    compiled = backend.compile_inference(function, jit_compile=jit_compile)
    kernel, bias, x = draw(5, 4), draw(4), draw(6, 5)
    y = x.astype("float64") @ kernel + bias
    expected = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    weights = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
    for start in (None, 1.0, None, 2.0, None, 3.0, None, 4.0):
        state = None if start is None else ops.convert_to_tensor(start)
        hidden, state = compiled(weights, ops.convert_to_tensor(x), state)
        np.testing.assert_allclose(ops.convert_to_numpy(hidden), expected, rtol=1e-5, atol=1e-5)
        assert (state is None) == (start is None)
        if start is not None:
            assert float(state) == pytest.approx(start + expected.sum(), rel=1e-4)


@pytest.mark.skipif(HERE != "torch", reason="CUDA graphs are torch's")
def test_on_a_gpu_a_record_is_captured_and_gives_the_same(monkeypatch):
    """Asked for on a CPU, where torch finds nothing to capture and runs the same program."""
    assert compiling.captures("cuda")
    assert not compiling.captures("cpu")
    copied, copying = [], compiling._copying

    def noted(compiled):
        copied.append(compiled)
        return copying(compiled)

    monkeypatch.setattr(compiling, "captures", lambda device: True)
    monkeypatch.setattr(compiling, "_copying", noted)
    test_every_form_gives_the_same("auto")
    assert len(copied) == 2  # with a state, and without
    model = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2), ema=None)
    how = {"num_images": 2, "steps": 6, "solver": keras_dit.solvers.DPMSolverPP2M()}
    captured = model.generate(**how, callback=(kept := keras_dit.sampler.Trajectory()))
    assert len(copied) == 3  # the first step and the last one run as they are
    np.testing.assert_array_equal(model.generate(**how, jit_compile=False), captured)
    assert len({x.tobytes() for x in kept.x_t}) == 6  # none was written over


@pytest.mark.skipif(HERE != "torch", reason="CUDA graphs are torch's")
@pytest.mark.parametrize("good", [0, 1])
def test_what_cannot_be_captured_runs_as_it_was_recorded(monkeypatch, good):
    def fails(record, **settings):
        calls = itertools.count()

        def call(numbers):
            if next(calls) >= good:
                raise RuntimeError("no graph")
            return record(numbers)

        return call

    monkeypatch.setattr(compiling, "captures", lambda device: True)
    monkeypatch.setattr(compiling.torch, "compile", fails)
    test_every_form_gives_the_same("auto")


def test_a_branch_is_taken_anew_at_each_call():
    def function(x):
        return ops.cond(ops.sum(x) > 0, lambda: 2.0 * x, lambda: -x)

    compiled = backend.compile_inference(function)
    for sign in (1.0, 1.0, 1.0, -1.0, 1.0, -1.0):
        found = compiled(ops.convert_to_tensor(np.full(3, sign, "float32")))
        np.testing.assert_array_equal(ops.convert_to_numpy(found), 2.0 if sign > 0 else 1.0)


PAGES = """
import resource
from keras import ops
import keras_dit
from keras_dit import backend
backend.reuse_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
double = backend.compile_inference(lambda x: x * 2.0)
x = ops.zeros((64, 2**18))  # 64 MiB
pages = []
for _ in range(60):  # JAX frees a little later than it could, so that the heap grows at first
    start = faults()
    backend.synchronize(double(x))
    pages.append(faults() - start)
print(sorted(pages[20:])[20])
"""


@pytest.mark.skipif(HERE != "jax" or sys.platform != "linux", reason="for JAX under Linux")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_ARENA_MAX": "8"}])
def test_freed_memory_is_taken_again(environment, tmp_path):
    result = run(PAGES, tmp_path, KERAS_BACKEND="jax", **environment)
    pages = int(result.stdout.split()[-1])
    assert (pages < 1000) != bool(environment)  # the user's choice stands


@pytest.mark.skipif(HERE != "torch", reason="torch alone records what it runs")
def test_nothing_is_kept_for_gradients():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    value = backend.compile_inference(layer)(ops.convert_to_tensor(draw(4, 3)))
    assert not value.requires_grad


@pytest.mark.skipif(HERE == "torch", reason="torch compiles nothing")
def test_compiled_programs_serve_the_next_process(tmp_path):
    """The second one finds all that the first one left, and makes the same pictures."""
    code = (
        "import keras, keras_dit; keras.utils.set_random_seed(0); "
        "network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2); "
        "network.final.projection.kernel.assign(network.blocks[0].mlp_in.kernel[:, :4]); "
        "print(keras_dit.Diffusion(network).generate(num_images=1, steps=2).tolist())"
    )
    settings = {
        "KERAS_BACKEND": HERE,
        "KERAS_DIT_CACHE": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = []
    for _ in range(2):
        done = run(code, tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        found.append((done.stdout, {path.name for path in (tmp_path / "cache").rglob("*")}))
    assert any(name.endswith(("-cache", ".pb")) for name in found[0][1])
    assert found[0] == found[1]


def test_device_facts():
    value = ops.convert_to_tensor(draw(3)) + 1.0
    assert backend.synchronize(value) is None
    assert isinstance(backend.device_name(), str)
    assert backend.device_name()


@pytest.mark.skipif(backend.BACKEND != "jax", reason="only JAX tells what a gradient will take")
def test_remat_keeps_of_each_block_its_arguments_alone():
    import jax

    rng = np.random.default_rng(0)
    pairs = [
        [rng.normal(size=s).astype("float32") for s in ((16, 512), (512, 16))] for _ in range(8)
    ]
    blocks = [lambda x, a=a, b=b: ops.tanh(x @ a) @ b for a, b in pairs]

    def loss(x, wrap):
        for block in blocks:
            x = x + wrap(block)(x)
        return ops.sum(x)

    x = ops.ones((256, 16))
    memory, gradient = {}, {}
    for wrap in (lambda block: block, backend.remat):
        compiled = jax.jit(jax.grad(loss), static_argnums=1).lower(x, wrap).compile()
        memory[wrap is backend.remat] = compiled.memory_analysis().temp_size_in_bytes
        gradient[wrap is backend.remat] = ops.convert_to_numpy(compiled(x))
    assert memory[True] < memory[False] / 3
    np.testing.assert_allclose(gradient[True], gradient[False], rtol=1e-5, atol=1e-5)
