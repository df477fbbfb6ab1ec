"""keras-dit train in two processes, as hosts are on JAX and TensorFlow and devices on torch."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_dit import checkpoints
from keras_dit.backend import BACKEND
from keras_dit.cli import main
from keras_dit.training.checkpoints import folder

TESTS = pathlib.Path(__file__).parent
NEW = ["--data", "digits", "--limit", 256, "--validation", 0.25, "--batch-size", 64]
NEW += ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]
NEW += ["--epochs", 10, "--sample-every", 8]  # of 3 steps


def started(run, *options):
    """The command in two processes that train together; what they say goes to a file."""
    launcher = [] if BACKEND == "torch" else [TESTS / "two_processes.py"]
    devices = ["--devices", 2] if BACKEND == "torch" else []
    command = [sys.executable, *launcher, "-m", "keras_dit", "train", "--run", run, *devices]
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    told = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with said(run).open("w") as shown:
        command = [*map(str, command), *map(str, options), "--checkpoint-every", "0"]
        return subprocess.Popen(command, env=told, stdout=shown, stderr=shown)


def said(run):
    return run.with_suffix(".txt")


def steps(run):
    found = folder.newest(run / "checkpoints") if (run / "checkpoints").exists() else None
    return 0 if found is None else found[2]["steps"]


def state(run):
    return {
        name: array.tobytes() for name, array in checkpoints.newest(run / "checkpoints")[1].items()
    }


def log(run):
    with (run / "log.csv").open() as file:
        return [(row["loss"], row["val_loss"]) for row in csv.DictReader(file)]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the processes")
def test_a_run_of_two_processes_goes_on_exactly_where_one_of_them_was_killed(tmp_path):
    """The other one ends by itself, with a word. The first one alone writes, draws and speaks."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert started(whole, *NEW).wait(600) == 0, said(whole).read_text()
    assert said(whole).read_text().count("model and images are in") == 1
    images = sorted(path.name for path in (whole / "samples").iterdir())
    assert images == ["epoch_00008.png", "final.png"] and (whole / "model.keras").exists()

    process = started(run, *NEW)
    while steps(run) < 4 and process.poll() is None:
        time.sleep(0.05)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert process.wait(60) != 0
    assert ("killed" if BACKEND == "torch" else "another process of") in said(run).read_text()

    assert started(run, "--resume").wait(600) == 0, said(run).read_text()
    assert state(run) == state(whole) and log(run) == log(whole)
    on_one = ["train", "--resume", "--run", run, "--devices", 1, "--epochs", 11]
    assert main(list(map(str, on_one))) == 0
    assert len(log(run)) == 11
