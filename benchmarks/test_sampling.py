"""One step of a sampling run, a whole run, and what a run costs over its network evaluations."""

import pytest
from conftest import S2, S4

from keras_dit import Diffusion
from keras_dit.cli import bench
from keras_dit.guidance import ClassifierFree

STEPS = 20
cases = pytest.mark.parametrize("case", [S4, S2], ids=str)


@cases
def test_one_step(case, measure):
    case = measure.case(case)
    measure(case, bench.sampling(Diffusion(case.network()), case.batch, steps=1))


@cases
def test_whole_run_with_guidance(case, measure):
    case = measure.case(case)
    run = bench.sampling(Diffusion(case.network()), case.batch, STEPS, ClassifierFree(4.0))
    measure(case, run, evaluations=2.0 * STEPS, rounds=3)


@cases
def test_overhead_over_network_evaluations(case, measure):
    """Runs and bare evaluations in turn, so that a drift of the machine meets both."""
    case = measure.case(case)
    network = case.network()
    evaluate = bench.forward(network, case.batch)
    run = bench.sampling(Diffusion(network), case.batch, STEPS)
    seconds = measure(case, run, evaluations=STEPS, rounds=3)
    ratios = []
    for _ in range(1 if measure.smoke else 5):
        alone = bench.seconds(evaluate, rounds=STEPS)
        ratios.append(bench.seconds(run, rounds=3) / (STEPS * alone))
    measure.note(case, overhead=sorted(ratios)[len(ratios) // 2], seconds=seconds)
