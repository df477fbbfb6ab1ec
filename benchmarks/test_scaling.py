"""How the forward pass grows with the number of tokens, the depth and the width."""

from dataclasses import replace

import pytest
from conftest import S4

from keras_dit.cli import bench

TOKENS = [replace(S4, input_shape=(side, side, 3)) for side in (16, 32, 64)]
DEPTH = [replace(S4, config=(("depth", depth),)) for depth in (3, 6, 12, 24)]
WIDTH = [
    replace(S4, config=(("hidden_size", width), ("num_heads", width // 64)))
    for width in (192, 384, 768)
]


@pytest.mark.parametrize("case", [*TOKENS, *DEPTH, *WIDTH], ids=str)
def test_scaling(case, measure):
    case = measure.case(case)
    measure(case, bench.forward(case.network(), case.batch), rounds=5)
