"""The sampling loop, its noise, caches, and the generation of batches."""

from keras_dit.sampling.exported import Sampler
from keras_dit.sampling.loop import (
    STEPS,
    evaluations,
    invert,
    run,
    run_rates,
    run_times,
    sample,
    take_step,
)
from keras_dit.sampling.noise import HostNoise, check_seed, initial_noise
from keras_dit.sampling.trajectory import Trajectory

__all__ = [
    "STEPS",
    "HostNoise",
    "Sampler",
    "Trajectory",
    "check_seed",
    "evaluations",
    "initial_noise",
    "invert",
    "run",
    "run_rates",
    "run_times",
    "sample",
    "take_step",
]
