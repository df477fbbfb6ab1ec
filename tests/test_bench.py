"""That the benchmarks and `keras-dit bench` run, and what they take for a network's products."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from keras_dit.cli import bench, main
from keras_dit.networks import multiply_adds

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
