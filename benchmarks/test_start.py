"""Cold start and memory, each in a process of its own."""

import json
import subprocess
import sys

import pytest
from conftest import S4

PICTURE = """
import json, sys, time
start = time.perf_counter()
import keras_dit
from keras_dit import backend
arguments = json.loads(sys.argv[1])
diffusion = keras_dit.Diffusion(keras_dit.DiTModel(**arguments))
imported = time.perf_counter() - start
diffusion.generate(labels=[0], steps=10)
print(json.dumps({"to_network": imported, "to_picture": time.perf_counter() - start,
                  "peak_bytes": backend.peak_memory()}))
"""
TRAINING = """
import json, sys, time
start = time.perf_counter()
import keras_dit
from keras_dit import backend
from keras_dit.cli import bench
arguments = json.loads(sys.argv[1])
step = bench.training_step(keras_dit.Diffusion(keras_dit.DiTModel(**arguments)), 8)
step()
first = time.perf_counter() - start
for _ in range(2):
    step()
print(json.dumps({"to_first_step": first, "peak_bytes": backend.peak_memory()}))
"""


@pytest.mark.parametrize("program", [PICTURE, TRAINING], ids=["first_picture", "first_step"])
def test_cold_start_and_memory(program, measure):
    case = measure.case(S4)
    arguments = json.dumps(case.arguments())
    found = {}

    def start():
        command = [sys.executable, "-c", program, arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.update(json.loads(output.splitlines()[-1]))

    measure.benchmark.pedantic(start, rounds=1)
    measure.note(case, **found)
