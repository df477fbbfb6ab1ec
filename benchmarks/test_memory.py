"""What a training step holds, each case in a process of its own.

`held` is what the model's variables take: weights, average, AdamW's moments. `beside` is what the
process takes more than these while it makes a step, with what the backend itself takes, and
`step` what of that it takes at the step alone and gives back. It is warm: what compilers take has
been given back, as far as they do.
"""

import json
import pathlib

import pytest
from conftest import S2, Case

PROGRAM = """
import ctypes, gc, json, math, sys
import keras_dit
from keras_dit import backend
from keras_dit.cli import bench

def now(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

arguments = json.loads(sys.argv[1])
diffusion = keras_dit.Diffusion(keras_dit.DiTModel(**arguments))
step = bench.training_step(diffusion, int(sys.argv[2]))
step()
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
between = now("VmRSS")
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # of which VmHWM is the most from now on
step()
most = now("VmHWM")
variables = [*diffusion.variables, *diffusion.optimizer.variables]
held = sum(math.prod(v.shape) * (8 if "64" in v.dtype else 4) for v in variables)
print(json.dumps({"held_bytes": held, "beside_bytes": most - held,
                  "step_bytes": most - between, "peak_bytes": backend.peak_memory()}))
"""
LARGE = [Case(f"dit_{size}_2", (32, 32, 4)) for size in ("b", "l", "xl")]
LONG = Case("dit_s_2", (64, 64, 4), batch=2)  # 1024 tokens


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="only on Linux")
@pytest.mark.parametrize("remat", [False, True], ids=["kept", "remat"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "case", [S2, *(pytest.param(c, marks=pytest.mark.large) for c in (*LARGE, LONG))], ids=str
)
def test_memory_of_a_step(case, dtype, remat, measure):
    case = measure.case(case)
    arguments = {**case.arguments(), "dtype": dtype, "remat": remat}
    measure.alone(case, PROGRAM, json.dumps(arguments), case.batch)
