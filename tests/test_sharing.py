"""What several processes make together, each with a device, is what one makes alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_dit
from keras_dit import backend
from keras_dit.cli import main
from keras_dit.codecs import Autoencoder, AutoencoderKL
from keras_dit.conditions import Label, Text, WordEncoder

TESTS = pathlib.Path(__file__).parent


def test_one_process_alone_makes_everything_as_it_is_asked_for():
    asked = []
    made = backend.shared(lambda key: asked.append(key) or key**2, [2, 3, 4])
    assert next(made) == 4 and asked == [2]
    assert list(made) == [9, 16] and backend.members() == 1


def program(what, folder):
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    told = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "sharing_program", what, str(folder)]
    return subprocess.Popen(
        command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_results_come_in_order_from_both_and_an_error_of_the_one_that_helps_too(tmp_path):
    process = program("failed", tmp_path)
    shown, errors = process.communicate(timeout=300)
    assert shown.splitlines() == ["[0, 1, 4, 9, 16] 2", "[] 0"], errors
    assert "process 2 of 2: piece 31 is bad" in errors and process.returncode == 1


def test_the_end_of_one_ends_the_other_with_a_message(tmp_path):
    process = program("killed", tmp_path)
    errors = process.communicate(timeout=300)[1]
    assert "process 2 of 2 was killed by signal 9" in errors and process.returncode == 1


def test_the_one_that_helps_ends_with_the_one_that_leads(tmp_path):
    process = program("slow", tmp_path)
    wait_for(lambda: all((tmp_path / n).exists() for n in ("leads", "helps")))
    wait_for(lambda: (tmp_path / "helps").read_text())
    helper = int((tmp_path / "helps").read_text())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not is_running(helper), seconds=30)


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


# The commands


def command(*arguments):
    """Run the command in this process, which leads; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of ten classes that is told texts too, with random weights."""
    text = Text(3, WordEncoder(["a", "red", "square"], depth=1, num_heads=2), hidden_size=8)
    told = {"label": Label(10), "text": text}
    block = keras_dit.AdaLNBlock(2, cross_attention=keras_dit.layers.CrossAttention(2))
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, conditions=told, block=block)
    rng = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(rng.normal(0, 0.1, weight.shape))
    path = tmp_path_factory.mktemp("models") / "model.keras"
    keras_dit.Diffusion(network, ema=None).save(path)
    return path


def test_images_are_those_of_one_device(model, tmp_path):
    """Each with a label, a prompt and a seed of its own, in batches that are cut alike."""
    told = ["--labels", "1,2,3,4,5", "--prompt", "a red square", "--prompt", "a", "--prompt", "red"]
    told += ["--seed", "7,8,9,1,2", "--steps", 2, "--batch-size", 2, "--solver", "ddpm"]
    for devices, name in ((1, "one"), (2, "two")):
        out = ["--out", tmp_path / f"{name}.npy", "--devices", devices]
        assert command("sample", model, *told, *out) == 0
    one, two = np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy")
    assert one.shape == (5, 8, 8, 1) and abs(one[0] - one[1]).max() > 0.1
    np.testing.assert_array_equal(two, one)


def test_a_batch_for_each_device_changes_images_by_rounding_alone(model, tmp_path):
    """One batch would leave the second device without work; a grid and ADM's file beside it."""
    for devices, name in ((1, "one"), (2, "two")):
        out = ["--out", tmp_path / f"{name}.npz", "--devices", devices]
        assert command("sample", model, "--num-images", 4, "--steps", 2, *out) == 0
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["arr_0"].shape == (4, 8, 8, 1)
        assert abs(one["arr_0"].astype(int) - two["arr_0"]).max() <= 1
        np.testing.assert_array_equal(one["arr_1"], two["arr_1"])


def test_a_sweep_reports_what_one_device_does(model, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path / "cache"))
    made = ["--num-images", 30, "--batch-size", 10, "--steps", 2, "--labels", "none"]
    made += ["--reference", "digits"]
    for devices, name in ((1, "one"), (2, "two")):
        out = ["--out", tmp_path / name, "--devices", devices, "--sweep", "guidance=1,2"]
        assert command("evaluate", model, *made, *out) == 0
    for cell in ("guidance=1", "guidance=2"):
        one, two = (
            json.loads((tmp_path / n / cell / "report.json").read_text()) for n in ("one", "two")
        )
        assert one["sampling"]["images"] == 30
        assert two == one


def test_latents_are_those_of_one_device(tmp_path):
    keras.utils.set_random_seed(0)
    network = AutoencoderKL(1, 2, (4,), 1, groups=2, quant_conv=False, mid_attention=False)
    Autoencoder(network).save(tmp_path / "ae.keras")
    made = ["--data", "digits", "--limit", 18, "--batch-size", 4, "--flips"]
    made += ["--autoencoder", tmp_path / "ae.keras"]
    for devices, name in ((1, "one"), (2, "two")):
        out = ["--out", tmp_path / name, "--devices", devices]
        assert command("encode", *made, *out) == 0
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in ("one", "two")
    )
    assert two == one and any(name.endswith(".npy") for name in one)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["sample", "MODEL", "--devices", 2, "--trajectory", "a.gif"], "leave out --devices"),
        (["sample", "MODEL", "--devices", 2, "--labels", "11"], "--labels: must be a class"),
        (["evaluate", "--images", "a", "--reference", "b", "--devices", 2], "for a MODEL"),
        (["encode", "--data", "nowhere", "--autoencoder", "a", "--out", "b", "--devices", 2], ""),
    ],
)
def test_a_mistake_is_told_once(model, tmp_path, monkeypatch, capfd, options, says):
    monkeypatch.chdir(tmp_path)
    assert command(*[model if o == "MODEL" else o for o in options]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert says in error and os.listdir(tmp_path) == []


def test_more_processes_than_visible_devices_are_refused(model, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert command("sample", model, "--devices", 2, "--out", tmp_path / "a.npy") == 2
    assert "there are 1 devices. Received: --devices 2" in capfd.readouterr().err
