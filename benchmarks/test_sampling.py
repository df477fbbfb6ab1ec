"""One step of a sampling run, a whole run, and what a run costs over its network evaluations."""

import statistics
import time

import pytest
from conftest import S2, S4

from keras_dit import Diffusion, backend
from keras_dit.cli import bench
from keras_dit.guidance import ClassifierFree

STEPS = 10
cases = pytest.mark.parametrize("case", [S4, S2], ids=str)


@cases
def test_one_step(case, measure):
    case = measure.case(case)
    measure(case, bench.sampling(Diffusion(case.network()), case.batch, steps=1))


@cases
def test_whole_run_with_guidance(case, measure):
    case = measure.case(case)
    run = bench.sampling(Diffusion(case.network()), case.batch, STEPS, ClassifierFree(4.0))
    measure(case, run, evaluations=2.0 * STEPS, rounds=2)


@cases
def test_overhead_over_network_evaluations(case, measure):
    """Runs and as many bare evaluations in turn, so that a drift of the machine meets both."""
    case = measure.case(case)
    network = case.network()
    evaluate = bench.forward(network, case.batch)
    run = bench.sampling(Diffusion(network), case.batch, STEPS)
    measure(case, run, evaluations=STEPS, rounds=1)
    ratios = []
    for _ in range(1 if measure.smoke else 6):
        alone = timed(evaluate, STEPS)
        ratios.append(timed(run, 1) / alone)
    measure.note(case, overhead=statistics.median(ratios[1:] or ratios))


def timed(function, times):
    """The seconds of so many calls."""
    start = time.perf_counter()
    for _ in range(times):
        backend.synchronize(function())
    return time.perf_counter() - start
