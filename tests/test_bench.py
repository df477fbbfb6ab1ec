"""That the benchmarks and `keras-dit bench` run, and what they take for a network's products."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit.backend import BACKEND
from keras_dit.cli import bench, main
from keras_dit.networks import multiply_adds, preset_config

REPOSITORY = pathlib.Path(__file__).parents[1]
TINY = {
    "input_shape": (8, 8, 3), "patch_size": 4, "hidden_size": 16, "depth": 3, "num_heads": 2,
}  # fmt: skip


def test_the_products_are_the_arithmetic_of_the_blocks():
    work = sum(
        times * (batch or 1) * rows * inner * columns
        for times, batch, rows, inner, columns in bench.product_shapes(TINY, batch_size=5)
    )
    ends = multiply_adds({**TINY, "depth": 0})  # patches, conditioning, the last layer
    assert work == 5 * (multiply_adds(TINY) - ends)


def test_the_command_prints_its_table(capsys, monkeypatch):
    monkeypatch.setattr(bench, "preset_config", lambda name: {**TINY, "input_shape": None})
    assert main(["bench", "dit_s_4", "--input-shape", "8,8,3", "--batch-size", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("forward", "training step", "matrix products", "images/s")
    )


def test_every_benchmark_runs_once(tmp_path):
    pytest.importorskip("pytest_benchmark")
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--smoke"]
    # A run of its own, whoever runs this one: pytest-benchmark does not measure in a worker.
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [*command, f"--benchmark-json={results}", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env={**own, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    names = {b["name"].partition("[")[0] for b in json.loads(results.read_text())["benchmarks"]}
    assert {"test_forward", "test_training_step", "test_scaling"} <= names
    table = subprocess.run(
        [sys.executable, "benchmarks/collect.py", results, "--plot", tmp_path / "plot.png"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert table.returncode == 0, table.stderr
    assert "| forward[dit_s_4" in table.stdout


@pytest.mark.skipif(BACKEND != "torch", reason="of one backend is enough")
def test_what_is_measured_beside_others_answers(tmp_path):
    """`compare.py` asks it for a size by name, and for the outputs of others' weights."""
    config = {**preset_config("dit_s_8"), "input_shape": (16, 16, 3), "num_classes": 1000}
    network = keras_dit.DiTModel(**config, learned_variance=True)
    random = np.random.default_rng(0)
    for weight in network.trainable_variables:  # the last ones are made as zeros
        weight.assign(weight + 0.02 * random.normal(size=weight.shape).astype("float32"))
    keras_dit.weights.export(network, tmp_path / "weights.pt")
    x, t = random.normal(size=(2, 16, 16, 3)).astype("float32"), np.array([3.0, 900.0], "float32")
    y = np.array([1, 7], "int32")
    output = ops.convert_to_numpy(network(*map(ops.convert_to_tensor, (x, t, y))))
    theirs = {"x": x.transpose(0, 3, 1, 2), "output": output.transpose(0, 3, 1, 2)}
    np.savez(tmp_path / "arrays.npz", t=t, y=y, **theirs)
    requests = [["prepare", "forward", "S", 8, 16, 3], ["time"]]
    done = subprocess.run(
        [sys.executable, "benchmarks/peer_ours.py", tmp_path],
        input="".join(json.dumps(request) + "\n" for request in requests),
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert len(answers) == 2, done.stderr
