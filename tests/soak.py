"""Kill trainings and saves at random moments, and count what they survive; measure memory.

    KERAS_BACKEND=torch python tests/soak.py --kills 100 --saves 100 --steps 10000 --pictures 1000
    KERAS_BACKEND=torch python tests/soak.py --pairs 20

Prints one line for each part. A training is a process of its own, saved after each step and killed
with -9; whenever it has come to its end in spite of that, its state is compared, bit for bit, with
that of a training that was left alone. The digits are learned by a network of a few numbers.
`--pairs` does so with `keras-dit train --devices 2`, of whose processes it kills any one;
`--processes` has JAX or TensorFlow train in two of them, as on two hosts.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from keras import ops

import keras_dit
from keras_dit import checkpoints, datasets
from keras_dit.training.checkpoints import files, folder
from keras_dit.training.checkpoints.state import variables

EPOCHS, BATCH_SIZE = 40, 128  # of 14 steps


def make():
    keras.utils.set_random_seed(0)
    network = keras_dit.DiTModel(
        input_shape=(8, 8, 1), patch_size=4, hidden_size=8, depth=1, num_heads=2, num_classes=10
    )
    model = keras_dit.Diffusion(network, ema=0.99)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, EPOCHS * 14)
    model.compile(keras.optimizers.AdamW(rate), jit_compile=keras.backend.backend() == "jax")
    return model


def train(place, epochs=EPOCHS, every=0.0):
    """A training in a folder, from wherever it was stopped."""
    model = make()
    data = datasets.ImageBatches(*datasets.load_digits(), batch_size=BATCH_SIZE, flip=True, seed=1)
    checkpoint = checkpoints.Checkpoint(place, every=every, keep=2, resume=True)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[checkpoint])
    return model


def state_of(model):
    named = variables(model)
    return {name: ops.convert_to_numpy(value).tobytes() for name, value in named.items()}


def state_in(place):
    return {name: array.tobytes() for name, array in checkpoints.newest(place)[1].items()}


def start_training(place, epochs=EPOCHS):
    """A process that trains; returned when it has written the next checkpoint."""
    before = folder.paths(place)[:1]
    code = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import soak; "
    code += f"soak.train({str(place)!r}, {epochs})"
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and folder.paths(place)[:1] == before:
        time.sleep(0.01)
    return process


def kill_trainings(kills, epochs=EPOCHS):
    """How many trainings were killed, and how many came to their end exactly."""
    with tempfile.TemporaryDirectory() as place:
        expected = state_of(train(pathlib.Path(place) / "whole", epochs, every=1e9))
    killed = finished = 0
    while killed < kills:
        with tempfile.TemporaryDirectory() as place:
            done = False
            while not done:
                process = start_training(place, epochs)
                try:
                    if killed < kills:
                        process.wait(random.expovariate(1 / 0.7))
                except subprocess.TimeoutExpired:
                    process.kill()
                killed += process.wait() == -signal.SIGKILL
                done = process.returncode == 0
                assert done or process.returncode == -signal.SIGKILL, process.returncode
                assert checkpoints.newest(place) is not None
            wrong = [n for n, value in state_in(place).items() if value != expected[n]]
            assert not wrong, f"not exact: {wrong}"
            finished += 1
            print(f"{killed} kills so far, {finished} trainings ended exactly", flush=True)
    return killed, finished


def _write_for_ever(place):
    step = folder.newest(place)[2]["steps"]
    while True:
        step += 1
        files.write(folder.path_of(place, step), {"a": np.full(50_000, step)}, {"steps": step})
        folder.prune(place, 2)


def kill_saves(kills):
    """How many processes were killed that did nothing but save, and in how many saves."""
    last = 0
    with tempfile.TemporaryDirectory() as place:
        files.write(folder.path_of(place, 0), {"a": np.zeros(50_000)}, {"steps": 0})
        for _ in range(kills):
            process = os.fork()
            if process == 0:
                try:
                    _write_for_ever(place)
                finally:
                    os._exit(1)
            time.sleep(random.uniform(0.0, 0.2))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            _, arrays, facts = checkpoints.newest(place)
            assert (arrays["a"] == facts["steps"]).all()
            assert facts["steps"] >= last, "a checkpoint was lost"
            last = facts["steps"]
    return kills, last


def _command(place, processes=False):
    """`keras-dit train` on two devices, whose output goes to a file."""
    small = ["--hidden-size", "8", "--depth", "1", "--num-heads", "2", "--patch-size", "4"]
    new = ["--data", "digits", "--batch-size", "128", "--epochs", "30", *small]
    words = ["--resume"] if (place / "config.json").exists() else new
    launcher = [pathlib.Path(__file__).parent / "two_processes.py"] if processes else []
    devices = [] if processes else ["--devices", "2"]
    command = [sys.executable, *launcher, "-m", "keras_dit", "train", "--run", place, *devices]
    with open(place.with_suffix(".txt"), "w") as shown:
        command = [*map(str, command), *words, "--checkpoint-every", "0"]
        return subprocess.Popen(command, stdout=shown, stderr=shown)


def _computing(process):
    """The processes that train: those that the first one started, or it alone."""
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] or [process.pid]


def kill_one_of_a_pair(kills, processes=False):
    """How many times any one process of a training on two devices was killed, in how many runs.

    The others have to end by themselves within a minute, and the run, resumed until it is through,
    in the state of one that was left alone.
    """
    with tempfile.TemporaryDirectory() as place:
        whole = pathlib.Path(place) / "whole"
        assert _command(whole, processes).wait() == 0, whole.with_suffix(".txt").read_text()
        expected = state_in(whole / "checkpoints")
    killed = finished = 0
    while killed < kills:
        with tempfile.TemporaryDirectory() as place:
            run, done = pathlib.Path(place) / "run", False
            while not done:
                before = folder.paths(run / "checkpoints")[:1]
                process = _command(run, processes)
                while process.poll() is None and folder.paths(run / "checkpoints")[:1] == before:
                    time.sleep(0.05)
                time.sleep(random.uniform(0.0, 1.0))
                if process.poll() is None and killed < kills:
                    os.kill(random.choice(_computing(process)), signal.SIGKILL)
                    killed += process.wait(60) != 0
                done = process.wait() == 0
            assert state_in(run / "checkpoints") == expected
            finished += 1
    return killed, finished


def memory():
    """Resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(call, times):
    """Memory in MiB after a tenth of the calls, and after all."""
    for _ in range(max(1, times // 10)):
        call()
    before = memory()
    for _ in range(times - max(1, times // 10)):
        call()
    return before, memory()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--kills", "--pairs", "--saves", "--steps", "--pictures"):
        parser.add_argument(name, type=int, default=0)
    parser.add_argument("--processes", action="store_true", help="two of hosts, for --pairs")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="of each training that is killed"
    )
    arguments = parser.parse_args(argv)
    backend = keras.backend.backend()
    if arguments.saves:
        killed, saves = kill_saves(arguments.saves)
        print(
            f"{backend}: {killed} kills in {saves} saves, each left a whole checkpoint", flush=True
        )
    if arguments.kills:
        killed, finished = kill_trainings(arguments.kills, arguments.epochs)
        print(f"{backend}: {killed} kills of {finished} trainings, all ended exactly", flush=True)
    if arguments.pairs:
        killed, finished = kill_one_of_a_pair(arguments.pairs, arguments.processes)
        print(f"{backend}: {killed} kills of one of two in {finished} runs, all ended exactly")
    model = make()
    if arguments.steps:
        data = datasets.load_digits()
        before, after = growth(
            lambda: model.fit(*data, batch_size=18, verbose=0), arguments.steps // 100
        )
        print(f"{backend}: {arguments.steps} steps, {before:.0f} -> {after:.0f} MiB", flush=True)
    if arguments.pictures:
        before, after = growth(lambda: model.generate([0, 1], steps=2), arguments.pictures)
        print(
            f"{backend}: {arguments.pictures} generate, {before:.0f} -> {after:.0f} MiB", flush=True
        )


if __name__ == "__main__":
    main()
