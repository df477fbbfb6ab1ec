"""One training on several devices is the training on one: steps, logs, checkpoints."""

import inspect
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_dit.backend import BACKEND

PROGRAM = pathlib.Path(__file__).parent / "several_devices.py"
# Of weights that have moved by 1e-2: sums in another order, in float32 and in half of its bits.
TOLERANCE = {"float32": 1e-6, "resumed": 1e-6, "half": 1e-4}


def run(devices, *folders, processes=False):
    """The numbers that the program writes, perhaps as two processes of JAX or TensorFlow."""
    launcher = [PROGRAM.parent / "two_processes.py"] if processes else []
    if BACKEND == "torch" and devices > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    command = [sys.executable, *launcher, PROGRAM, devices, *folders]
    folders[0].mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(PROGRAM.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment["PYTHONPATH"] = path
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folders[0] / "found.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def found(folder):
    two = run(2, folder / "two")
    return run(1, folder / "one", folder / "two"), two


@pytest.mark.parametrize("kind", ["float32", "half"])
@pytest.mark.parametrize("what", ["weights", "average"])
def test_two_devices_take_the_steps_of_one(found, kind, what):
    """With label dropout, remat, clipping, accumulation, a loss scale, a step that is skipped."""
    one, two = (numbers[f"{kind}/{what}"] for numbers in found)
    np.testing.assert_allclose(two, one, rtol=0, atol=TOLERANCE[kind])


@pytest.mark.parametrize("kind", ["float32", "half"])
def test_two_devices_log_what_one_does(found, kind):
    one, two = found
    names = [name for name in one if name.startswith(f"{kind}/")]
    assert {f"{kind}/loss", f"{kind}/val_loss", f"{kind}/skipped"} <= set(names)
    np.testing.assert_array_equal(one[f"{kind}/skipped"], [1, 2])  # a NaN on one device
    for name in names:
        tolerance = 2e-3 if name == "half/gradient_norm" else 1e-4
        np.testing.assert_allclose(two[name], one[name], rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize("kind", ["latents", "whole", "generator"])
def test_latents_and_whole_batches_of_a_data_set_are_shared_out(found, kind):
    """What was cached is read by parts; of a PyDataset without parts each process keeps its own.

    A generator gives a process its part; of one that Keras has begun anew batches are lost.
    """
    one, two = found
    for what in ("weights", "average", "loss"):
        np.testing.assert_allclose(two[f"{kind}/{what}"], one[f"{kind}/{what}"], atol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="one process trains it")
def test_an_autoencoder_is_trained_as_on_one_device(found):
    for name in ("weights", "loss", "reconstruction", "kl"):
        one, two = (numbers[f"autoencoder/{name}"] for numbers in found)
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="whose workers all read the whole")
def test_processes_that_do_not_share_what_they_read_are_refused(processes):
    """A generator that gives all of them the whole batch, and a PyDataset in several orders."""
    assert "2 processes has read the same batch" in str(processes["unshared"])
    assert "read different batches of a PyDataset" in str(processes["differing"])


@pytest.fixture(scope="module")
def processes(found, folder):
    """What two processes found; those of JAX and TensorFlow did a part of all alone."""
    return found[1] if BACKEND == "torch" else run(1, folder / "processes", processes=True)


def test_two_processes_take_the_steps_of_one(found, processes):
    """Each has its half of every batch; the first one alone saves and draws."""
    for kind in ("latents", "whole", "generator"):
        for what in ("weights", "average", "loss"):
            name = f"{kind}/{what}"
            np.testing.assert_allclose(processes[name], found[0][name], atol=1e-6)
    np.testing.assert_allclose(processes["drawn"], found[0]["drawn"], atol=1e-5)


def test_one_that_is_asked_to_end_while_it_saves_ends_with_all_exactly(found, processes):
    """After the same step, and as if it had neither ended before nor gone on from there."""
    for numbers in (*found, processes):
        assert str(numbers["ended"]) == "step_00000003.safetensors"
        for what in ("weights", "average"):
            np.testing.assert_array_equal(numbers[f"asked/{what}"], numbers[f"latents/{what}"])


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends exchange by themselves")
def test_the_mean_is_over_processes_of_small_tensors_and_of_large_ones(found):
    np.testing.assert_array_equal(found[1]["means"], np.full(3 + 300 * 300, 0.5))


@pytest.mark.skipif(BACKEND != "jax", reason="Keras shards weights on JAX")
def test_weights_that_are_cut_over_the_devices_take_the_same_steps(found):
    one, two = found
    for what in ("weights", "average"):
        whole, cut = one[f"float32/{what}"], two[f"sharded/{what}"]
        np.testing.assert_allclose(cut, whole, rtol=0, atol=TOLERANCE["float32"])
    *each, whole = two["bytes"]
    assert len(each) == 2
    assert max(each) < 0.6 * whole  # what is small is on both


def test_both_evaluate_the_same(found):
    one, two = found
    np.testing.assert_allclose(two["evaluated"], one["evaluated"], rtol=1e-5)


def test_what_two_devices_began_one_ends(found):
    """From a checkpoint within the second epoch."""
    one, _ = found
    for what in ("weights", "average", "loss", "val_loss"):
        expected, resumed = one[f"float32/{what}"], one[f"resumed/{what}"]
        np.testing.assert_allclose(resumed, expected, rtol=1e-5, atol=TOLERANCE["resumed"])


def test_a_batch_that_devices_cannot_share_is_refused_before_the_first_step(found):
    assert "batch of 7 images equally: give batches of 6 or 8" in str(found[1]["refused"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends can do it")
def test_accumulation_and_scaled_losses_are_refused_with_what_to_do(found):
    """Of an optimizer that accumulates, one that scales, and a network in float16."""
    accumulates, scales, half = found[1]["undecided"]
    assert "neither scale a loss nor accumulate" in accumulates
    assert "float32 or mixed_bfloat16, with larger batches, or on JAX or torch" in accumulates
    assert accumulates == scales == half


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_private_names_by_which_workers_wait_longer():
    """Gone from TensorFlow: a worker misses another one after 10 seconds, not 30."""
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager.context import Context

    known = inspect.signature(Context.configure_coordination_service).parameters
    assert {"heartbeat_timeout_in_ms", "coordinated_jobs"} <= set(known)
    assert CoordinatedJob(name="worker", num_tasks=2).num_tasks == 2
