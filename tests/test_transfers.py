"""A step moves nothing between host and device by itself, but for what is listed here.

What is moved is waited for. The tests run on a CPU, where the two share their memory: JAX guards
the way to the device there too, torch computes on a device that is none, which counts, and
TensorFlow's graph tells what would run in Python.
"""

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import guidance, sampler, solvers
from keras_dit.backend import BACKEND, compiling
from keras_dit.sampling import generation

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    import torch.utils.backend_registration
else:
    import tensorflow as tf


@pytest.fixture(scope="module")
def diffusion():
    """It has been trained for a step, so that its programs and its optimizer are there."""
    keras.utils.set_random_seed(0)
    model = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=3))
    model.compile(keras.optimizers.AdamW(1e-3))
    model.fit(*map(ops.convert_to_numpy, batch()), batch_size=4, verbose=0)
    return model


def batch():
    """Images and labels that are on the device."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 1))
    return ops.convert_to_tensor(images, "float32"), ops.convert_to_tensor([0, 1, 2, 0], "int32")


@contextlib.contextmanager
def watched_steps(monkeypatch, watch):
    """Each step of `generate` is made inside `watch()`; gives the steps that were made."""
    advance, steps = generation._Batch.advance, []

    def within(self, *arguments):
        steps.append(self)
        with watch():
            return advance(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generation._Batch, "advance", within)
        yield steps


def sampled(diffusion, **how):
    return diffusion.generate(labels=[0, 1], steps=4, **how)


HOW = {"ddim": {}, "ddpm": {"solver": solvers.DDPM()}, "heun": {"solver": solvers.Heun()}}
GUIDED = {"guidance": guidance.ClassifierFree(2.0)}

# What is drawn on the host


def noise_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


@pytest.fixture
def draws(monkeypatch):
    """The threads in which noise was drawn, in order, once for each draw."""
    draw, seen = sampler.HostNoise.draw, []

    def noted(self):
        seen.append(threading.current_thread())
        return draw(self)

    monkeypatch.setattr(sampler.HostNoise, "draw", noted)
    return seen


def test_no_step_draws_its_noise_itself(diffusion, draws):
    """The one before the first step is of the samples that the run starts from."""
    here = threading.current_thread()
    sampled(diffusion, solver=solvers.DDPM())
    assert draws[0] is here
    assert len(draws) == 4
    assert here not in draws[1:]
    assert not noise_threads()


def test_no_more_is_drawn_than_a_run_asks_for(diffusion, draws):
    for how, steps, count in ((HOW["ddim"], 4, 1), (HOW["ddpm"], 1, 1), (HOW["ddpm"], 2, 2)):
        del draws[:]
        diffusion.generate(labels=[0, 1], steps=steps, **how)
        assert len(draws) == count


def test_noise_is_drawn_two_steps_ahead_and_no_further(diffusion, draws):
    """So that a run of a thousand steps holds no more of it."""
    most = []

    def callback(step, *_):
        deadline = time.monotonic() + 60
        while len(draws) < min(1 + step + 3, 8) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)  # what was not to be drawn would be by now
        most.append(len(draws) - 1 - (step + 1))  # drawn, and not used yet

    diffusion.generate(labels=[0], steps=8, solver=solvers.DDPM(), callback=callback)
    assert most == [2, 2, 2, 2, 2, 1, 0, -1]  # the last step has none


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_thread_is_left_behind(diffusion, error):
    def callback(step, *_):
        if step == 1:
            assert noise_threads()
            raise error

    how = {"solver": solvers.DDPM(), "steps": 30, "callback": callback}
    if error is RuntimeError:
        with pytest.raises(error):
            diffusion.generate(labels=[0], **how)
    else:
        with pytest.warns(UserWarning, match="1 are estimates"):
            diffusion.generate(labels=[0], **how)
    assert not noise_threads()


def test_what_goes_wrong_while_noise_is_drawn_is_raised(diffusion, monkeypatch):
    draw, calls = sampler.HostNoise.draw, itertools.count()

    def failing(self):
        if next(calls) == 3:
            raise MemoryError("no memory for noise")
        return draw(self)

    monkeypatch.setattr(sampler.HostNoise, "draw", failing)
    with pytest.raises(MemoryError, match="no memory for noise"):
        sampled(diffusion, solver=solvers.DDPM())
    assert not noise_threads()


# JAX


@pytest.mark.skipif(BACKEND != "jax", reason="a guard of JAX")
def test_the_guard_sees_what_comes_from_the_host():
    (x, _), host = batch(), np.ones(3, "float32")
    for moves in (lambda: x * 2.0, lambda: jax.jit(ops.tanh)(host), lambda: x[0]):
        with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-"):
            moves()


@pytest.mark.skipif(BACKEND != "jax", reason="a guard of JAX")
def test_a_step_of_training_takes_nothing_from_the_host(diffusion):
    kinds = ("trainable", "non_trainable", "optimizer", "metrics")
    state = diffusion._get_jax_state(**{f"{kind}_variables": True for kind in kinds})
    state, data = jax.tree.map(lambda x: x.copy(), state), batch()  # the step takes it for its own
    with jax.transfer_guard("disallow"):
        logs, _ = diffusion.train_function(state, iter([data]))
    assert np.isfinite(float(logs["loss"]))


@pytest.mark.skipif(BACKEND != "jax", reason="a guard of JAX")
@pytest.mark.parametrize("how", [*HOW, "guided"])
def test_a_step_of_sampling_takes_nothing_from_the_host(diffusion, monkeypatch, how):
    """But for the scale of a guidance, which the first step of a batch takes."""
    how = {**HOW, "guided": GUIDED}[how]
    sampled(diffusion, **how)
    before = ["allow"] if how is GUIDED else []
    levels = itertools.chain(before, itertools.repeat("disallow"))
    with watched_steps(monkeypatch, lambda: jax.transfer_guard(next(levels))) as steps:
        sampled(diffusion, **how)
    assert len(steps) == 4


# torch

# What `fit` asks for at its begin and its end.
AROUND = {"begun", "fingerprints", "fit", "on_train_begin", "settle", "trust"}


@pytest.fixture(scope="module")
def counted():
    """What was waited for on a device that is none, and the same of the CPU."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch knows no device that is written in Python")
    program = pathlib.Path(__file__).parent / "fake_device.py"
    found = []
    for device in ("fake", "cpu"):
        environment = os.environ | {"KERAS_TORCH_DEVICE": device}
        command = [sys.executable, program]
        result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        found.append(json.loads(result.stdout))
    return found


on_torch = pytest.mark.skipif(BACKEND != "torch", reason="a device of torch")


def waits(counted, case):
    return counted[0][case]["waits"]


@on_torch
def test_the_fake_device_computes_what_the_cpu_does(counted):
    """So that what is sent to it without a wait is right."""
    there, here = counted
    for case, found in here.items():
        assert not any(found["waits"])
        assert np.isfinite(found["numbers"]).all()
        np.testing.assert_allclose(there[case]["numbers"], found["numbers"], rtol=1e-5, atol=1e-5)


@on_torch
def test_the_fake_device_counts_what_is_waited_for(counted):
    assert waits(counted, "asked") == {"?": 3}


@on_torch
def test_what_is_sent_without_a_wait_is_not_while_a_record_is_made(counted):
    """Both of two are waited for then, and afterwards none again; outside of it each."""
    assert waits(counted, "paused") == [0, 2, 0, 1]


@on_torch
def test_what_is_not_for_the_fake_device_is_there():
    folder = pathlib.Path(__file__).parent
    text = (folder / "fake_device.py").read_text()
    listed = text.partition("LEFT_OUT = {")[2].partition("\n}")[0]
    for name in (word for word in listed.split() if word.startswith("test_")):
        file, _, test = name.partition("::")
        assert not test or f"def {test.partition('[')[0]}(" in (folder / file).read_text()
        assert (folder / file).exists()


@on_torch
@pytest.mark.parametrize("case", ["step", "skipped"])
def test_a_step_of_training_waits_for_nothing(counted, case):
    assert waits(counted, case) == {}


@on_torch
def test_a_step_that_is_left_out_moves_nothing_on_it(counted):
    """Of the numbers the second counts such steps."""
    step, skipped = (counted[0][case]["numbers"] for case in ("step", "skipped"))
    step[1] += 1
    assert skipped == step


@on_torch
def test_what_another_optimizer_waits_for(counted):
    """Whether the step counts, since it has no other way to leave one out."""
    assert waits(counted, "another optimizer") == {"branch": 1}


@on_torch
@pytest.mark.parametrize("case", [*HOW, "guided", "plain"])
def test_a_step_of_sampling_waits_for_nothing(counted, case):
    """But for a guidance's scale, once a batch, and the constants of a record, once a program, of
    which a run has two: a step's and the last one's."""
    once = {"guided": {"advance": 2, "repeated": 2}, "plain": {}}
    assert waits(counted, case) == once.get(case, {"embed": 2})


@on_torch
@pytest.mark.parametrize("data", ["fit", "batches"])
def test_fit_waits_every_twenty_steps(counted, data):
    """For the three numbers of a step, by which it ends where all steps are skipped."""
    for steps in (20, 40):
        found = waits(counted, f"{data}, {steps}")
        assert found.pop("read") == 3 * steps // 20
        assert set(found) == AROUND


@on_torch
def test_an_autoencoder_waits_for_what_keras_reads_of_each_step(counted):
    """Its three numbers; else at the begin and the end of `fit` alone."""
    ten, twenty = (sum(waits(counted, f"autoencoder, {n}").values()) for n in (10, 20))
    assert twenty - ten == 3 * 10


# TensorFlow

ON_THE_HOST = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "NumpyFunction", "PrintV2", "Copy")


def operations(function):
    """The kinds of the operations of a concrete function and of all that it calls."""
    graph = function.graph.as_graph_def()
    inner = [node.op for each in graph.library.function for node in each.node_def]
    return {node.op for node in graph.node} | set(inner)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a graph of TensorFlow")
def test_the_graph_tells_what_runs_in_python():
    function = tf.function(lambda x: tf.numpy_function(np.sin, [x], "float32"))
    assert operations(function.get_concrete_function(tf.ones(3))) & set(ON_THE_HOST)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a graph of TensorFlow")
def test_a_step_of_training_runs_nothing_in_python(diffusion):
    step = tf.function(diffusion.train_step).get_concrete_function(batch())
    found = operations(step)
    assert "MatMul" in found
    assert not found & set(ON_THE_HOST)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a graph of TensorFlow")
def test_a_step_of_sampling_runs_nothing_in_python(diffusion, monkeypatch):
    made, compiled = [], compiling._compiled

    def noted(*arguments):
        made.append(compiled(*arguments))
        return made[-1]

    monkeypatch.setattr(compiling, "_compiled", noted)
    sampled(diffusion, **GUIDED, solver=solvers.DDPM())
    found = [operations(f) for each in made for f in each._list_all_concrete_functions()]
    assert len(found) == 2  # of a step, and of the last one
    assert not set().union(*found) & set(ON_THE_HOST)
