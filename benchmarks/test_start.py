"""Cold start and memory, each in a process of its own.

The parts of a start: to import, to build the model, to trace a step in Python, to compile it, and
to run it. A picture has its trace counted with the compiler.
"""

import json

import pytest
from conftest import S2, S4, Case

BEGIN = """
import json, sys, time
clock = getattr(time, sys.argv[2])
start = clock()
import keras_dit
from keras_dit import backend
from keras_dit.cli import bench
imported = clock()
diffusion = keras_dit.Diffusion(keras_dit.DiTModel(**json.loads(sys.argv[1])))
"""
PICTURE = """
built = clock()
diffusion.generate(labels=[0], steps=10)
first = clock()
diffusion.generate(labels=[0], steps=10)
run = clock() - first
print(json.dumps({"to_network": built - start, "to_picture": first - start, "parts": {
    "import": imported - start, "build": built - imported, "compile": first - built - run,
    "run": run}, "peak_bytes": backend.peak_memory()}))
"""
TRAINING = """
traced, inner = [], diffusion.train_step
def train_step(*arguments):
    begun = clock()
    logs = inner(*arguments)
    traced.append(clock() - begun)
    return logs
object.__setattr__(diffusion, "train_step", train_step)
step = bench.training_step(diffusion, 8)
built = clock()
step()
first = clock()
trace = sum(traced) if backend.BACKEND != "torch" else 0.0  # which runs what it would trace
for _ in range(2):
    step()
run = (clock() - first) / 2
print(json.dumps({"to_first_step": first - start, "parts": {
    "import": imported - start, "build": built - imported, "trace": trace,
    "compile": first - built - trace - run, "run": run}, "peak_bytes": backend.peak_memory()}))
"""
LARGE = [S2, *(Case(f"dit_{size}_2", (32, 32, 4)) for size in ("b", "l", "xl"))]


@pytest.mark.parametrize("case", [S4, *(pytest.param(c, marks=pytest.mark.large) for c in LARGE)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("program", [PICTURE, TRAINING], ids=["first_picture", "first_step"])
def test_cold_start_and_memory(program, case, measure, request):
    case = measure.case(case)
    clock = "process_time" if request.config.getoption("--cpu-time") else "perf_counter"
    measure.alone(case, BEGIN + program, json.dumps(case.arguments()), clock)
