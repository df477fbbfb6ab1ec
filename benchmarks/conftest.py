"""What the benchmarks share: the cases, the floor beside each, and what is written down.

    KERAS_BACKEND=jax pytest benchmarks --benchmark-json=benchmarks/jax.json

The default takes a few minutes; --all adds the other sizes, batches and pictures, and has them
alone with -m large; --smoke runs every benchmark once on a tiny network, to see that it works.
"""

import functools
import gc
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import keras
import pytest

import keras_dit
from keras_dit import backend
from keras_dit.cli import bench
from keras_dit.networks import multiply_adds, preset_config

backend.reuse_freed_memory()  # as the commands do


@dataclass(frozen=True)
class Case:
    """A network of a published size, or of `config`, at a batch size and precision."""

    preset: str = "dit_s_4"
    input_shape: tuple = (32, 32, 3)
    batch: int = 8
    dtype: str = "float32"
    config: tuple = ()  # pairs that change the preset

    def __str__(self):
        shape = "x".join(map(str, self.input_shape))
        changes = "".join(f"-{name}{value}" for name, value in self.config)
        return f"{self.preset}{changes}-{shape}-batch{self.batch}-{self.dtype}"

    def arguments(self):
        """Arguments of `DiTModel`, but for dtype."""
        config = {**preset_config(self.preset), **dict(self.config)}
        return {**config, "input_shape": self.input_shape, "num_classes": 1000}

    def network(self):
        return keras_dit.DiTModel(**self.arguments(), dtype=self.dtype)


S4 = Case()
S2 = Case("dit_s_2", (32, 32, 4))
B4 = Case("dit_b_4", (64, 64, 3))
TINY = (("hidden_size", 32), ("depth", 2), ("num_heads", 2))


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="every size, batch and picture")
    parser.addoption("--smoke", action="store_true", help="once each, on a tiny network")
    parser.addoption(
        "--cpu-time",
        action="store_true",
        help="count the processor's seconds in a start, for one core of a machine that is shared",
    )


def pytest_collection_modifyitems(config, items):
    smoke, seen = config.getoption("--smoke"), set()
    for item in items:
        if "large" in item.keywords and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="with --all"))
        elif smoke and item.function in seen and "start" not in item.name:
            item.add_marker(pytest.mark.skip(reason="one case is enough for a smoke run"))
        seen.add(item.function)


def pytest_configure(config):
    config.addinivalue_line("markers", "large: only with --all")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["keras_dit"] = {
        "backend": backend.BACKEND,
        "device": backend.device_name(),
        "keras": keras.__version__,
        "version": keras_dit.__version__,
    }


@functools.cache
def floor(case):
    """Multiply-adds a second of a case's bare matrix products."""
    dtype = "bfloat16" if "bfloat16" in case.dtype else "float32"
    return bench.product_rate(case.arguments(), case.batch, dtype)


class Measure:
    """Times a function with pytest-benchmark and writes its rates beside the case's floor."""

    def __init__(self, benchmark, smoke):
        self.benchmark, self.smoke = benchmark, smoke

    def case(self, case):
        """The case itself, or in a smoke run its tiny sister."""
        if not self.smoke:
            return case
        return Case(case.preset, (8, 8, case.input_shape[-1]), 2, case.dtype, TINY)

    def __call__(self, case, function, evaluations=1.0, rounds=9):
        """Time `function`, whose arithmetic is that of so many forward passes."""

        def call():
            backend.synchronize(function())

        warm = 1
        if self.smoke:
            warm, rounds = 0, 1
        elif rounds > 2:  # warm from the third call on; of what takes seconds three rounds do
            warm, rounds = (1, 3) if _seconds(call) > 1.0 else (2, rounds)
        self.benchmark.pedantic(call, rounds=rounds, warmup_rounds=warm)
        best = self.benchmark.stats.stats.min
        work = evaluations * multiply_adds(case.arguments()) * case.batch
        self.note(case, images_per_second=case.batch / best, gmacs_per_second=work / best / 1e9)
        if not self.smoke:
            rate = floor(case)
            self.note(case, floor_gmacs_per_second=rate / 1e9, efficiency=work / best / rate)
        return best

    def alone(self, case, program, *arguments):
        """Run a program once, in a process of its own; it prints its figures as JSON, last."""
        command = [sys.executable, "-c", program, *map(str, arguments)]
        found = {}

        def run():
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found.update(json.loads(output.splitlines()[-1]))

        self.benchmark.pedantic(run, rounds=1)
        self.note(case, **found)

    def note(self, case, **figures):
        self.benchmark.extra_info.update({**asdict(case), "case": str(case), **figures})


def _seconds(call):
    """How long a second call takes, the first being spent on compiling."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.fixture
def measure(benchmark, request):
    gc.collect()  # the last case's network, before this one takes its memory
    return Measure(benchmark, request.config.getoption("--smoke"))
