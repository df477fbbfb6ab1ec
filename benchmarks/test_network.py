"""The network alone and a training step, over sizes, patches, pictures, batches and precisions."""

from dataclasses import replace

import pytest
from conftest import B4, S2, S4, Case

from keras_dit import Diffusion
from keras_dit.cli import bench

BFLOAT16 = "mixed_bfloat16"
DEFAULT = [S4, S2, B4, replace(S4, dtype=BFLOAT16), replace(S2, dtype=BFLOAT16)]
SIZES = [Case(f"dit_{size}_{patch}", (32, 32, 4)) for size in "sbl" for patch in (2, 4, 8)]
BATCHES = [replace(S4, batch=batch) for batch in (1, 32, 128)]
PICTURES = [replace(S4, input_shape=(side, side, 3)) for side in (16, 64, 128)]
LARGE = [case for case in [*SIZES, *BATCHES, *PICTURES] if case not in DEFAULT]
every_case = pytest.mark.parametrize(
    "case", [*DEFAULT, *(pytest.param(case, marks=pytest.mark.large) for case in LARGE)], ids=str
)


@every_case
def test_forward(case, measure):
    case = measure.case(case)
    measure(case, bench.forward(case.network(), case.batch))


@every_case
def test_training_step(case, measure):
    case = measure.case(case)
    step = bench.training_step(Diffusion(case.network()), case.batch)
    measure(case, step, evaluations=3.0, rounds=7)


@pytest.mark.large
@pytest.mark.parametrize("case", [S4, S2], ids=str)
def test_training_step_with_remat(case, measure):
    case = replace(case, config=(("remat", True),))
    step = bench.training_step(Diffusion(case.network()), case.batch)
    measure(case, step, evaluations=3.0, rounds=7)
