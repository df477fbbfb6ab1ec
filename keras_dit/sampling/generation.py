"""The batches of `Diffusion.generate`."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops, tree

from keras_dit import backend
from keras_dit.guidance import Guidance
from keras_dit.progress import Bar
from keras_dit.sampling import loop
from keras_dit.sampling import noise as noises
from keras_dit.sampling.caching import Cache, CachedNetwork, Memory
from keras_dit.sampling.denoiser import Denoiser
from keras_dit.solvers import Solver


@dataclass(frozen=True)
class Run:
    """What all batches of a run have in common.

    Args:
        denoiser: a `Denoiser`.
        times: falling to 0.
        count: how many samples the run has.
        solver, guidance, cache, seed, callback: as for `Diffusion.generate`.
        shape: (H, W, C) of a sample.
    """

    denoiser: Denoiser
    times: np.ndarray
    count: int
    solver: Solver
    guidance: Guidance
    cache: Cache | None
    seed: int | Sequence
    callback: Callable | None
    shape: tuple

    @property
    def evaluations(self) -> int:
        """How often a batch calls the denoiser."""
        return loop.evaluations(self.solver, len(self.times) - 1)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came while a batch was made.

    Args:
        done: samples of the batches before it.
        count: of the run.
        estimate: the latest of the batch's samples, a tensor as the network sees them; None before
            the first step.
    """

    def __init__(self, done: int, count: int, estimate: Any = None):
        super().__init__(f"interrupted: {done} of {count} images are finished")
        self.estimate = None if estimate is None else ops.convert_to_numpy(estimate)


class Generation:
    """Makes the samples of runs batch by batch, and keeps its compiled steps for the next run."""

    def __init__(self):
        self._steps = {}  # by jit_compile

    def __call__(
        self,
        run: Run,
        chunks: Sequence,
        condition: Any,
        decode: Callable,
        verbose: bool | str = False,
        jit_compile: bool | str = "auto",
    ) -> Iterator[np.ndarray]:
        """Yields the samples of each batch, decoded.

        Args:
            run: a `Run`.
            chunks: the numbers of each batch's samples, a list of int arrays.
            condition: of all samples, a nest of numpy arrays (N, ...), or None.
            decode: numpy samples -> images.
            verbose, jit_compile: as for `Diffusion.generate`.

        Raises:
            Interrupted: after Ctrl-C within a batch.
        """
        first = None
        if jit_compile not in self._steps:
            first = "compiling" if backend.compiles(jit_compile) else None
            self._steps[jit_compile] = backend.compile_inference(take_step, jit_compile)
        step = self._steps[jit_compile]
        run = dataclasses.replace(run, denoiser=run.denoiser.settled())
        rates = loop.run_rates(run.denoiser.schedule, run.times)
        total, done, batch = run.evaluations * len(chunks), 0, None

        def make(samples):
            nonlocal batch
            batch = _Batch(run, step, samples, condition, bar)
            made = decode(batch.make(rates))
            batch = None
            return made

        words = verbose if isinstance(verbose, str) else "sampling"
        look = {"total": total, "unit": " evaluations", "disable": not verbose}
        with Bar(desc=words, first=first, **look) as bar:
            made = backend.shared(make, chunks)
            for place, samples in enumerate(chunks, 1):
                try:
                    images = next(made)
                except KeyboardInterrupt:
                    estimate = None if batch is None else batch.estimate
                    raise Interrupted(done, run.count, estimate) from None
                bar.update(place * run.evaluations - bar.n)  # those of other processes
                done += len(samples)
                yield images


class _Batch:
    """A batch on its way: its samples' latest estimate and what the cache remembers."""

    def __init__(self, run, step, samples, condition, bar):
        self.run, self.step, self.samples, self.bar = run, step, samples, bar
        self.condition = condition
        if condition is not None:
            self.condition = tree.map_structure(
                lambda values: ops.convert_to_tensor(values[samples]), condition
            )
        self.estimate = self.memory = self.cache = None
        if run.cache is not None:
            self.memory = Memory.empty()
            self.cache = dataclasses.replace(run.cache, report=None)  # no part of a step
        self.place = itertools.count()
        self.moved: dict = {}  # to the device: numbers of the guidance, by their bytes

    def make(self, rates):
        """The samples, numpy (B, ...)."""
        run = self.run
        noise = ops.convert_to_tensor(noises.initial_noise(run.seed, self.samples, run.shape))
        step_noise = noises.HostNoise(run.seed, self.samples, run.shape, stream=1)
        count = loop.draws(run.solver, len(rates))
        with noises.drawn_ahead(step_noise, count, noise) as drawn:
            x0 = loop.run(self.advance, noise, rates, run.solver, drawn, run.callback)
        if run.cache is not None:
            self.bar.set_postfix_str(run.cache.finish(self.memory, run.evaluations))
        return ops.convert_to_numpy(x0)

    def advance(self, x, here, there, state, noise):
        """A step of the loop."""
        run, place = self.run, next(self.place)
        looks = 1 if there is None else run.solver.evaluations
        times = run.times[place : place + looks]
        guidance = run.guidance.simplified(times, self.samples, run.count)
        if self.cache is not None:
            self._fit_memory(guidance)
        guidance = self._on_device(guidance)
        setting = run.denoiser, guidance, run.solver, self.cache, self.memory, self.condition
        *result, self.memory = self.step(*setting, x, here, there, state, noise)
        self.estimate = result[2]
        self.bar.update(looks)
        return result

    def _on_device(self, guidance):
        """The guidance with its numbers where they stay: else each step would move them again."""
        form, numbers = backend.partition(guidance)
        for i, number in enumerate(numbers):
            if isinstance(number, (np.ndarray, np.generic)):
                key = number.dtype, number.shape, number.tobytes()
                if key not in self.moved:
                    self.moved[key] = ops.convert_to_tensor(number)
                numbers[i] = self.moved[key]
        return backend.combine(form, numbers)

    def _fit_memory(self, guidance):
        """Give it the shape of this step's tokens, so that all steps are of one program."""
        network = self.run.denoiser.network
        _, length, width = network.positions_of(self.run.shape[:2]).shape
        shape = guidance.copies * len(self.samples), length, width
        self.memory = self.memory.fitting(shape, network.compute_dtype)


def take_step(denoiser, guidance, solver, cache, memory, condition, *step):
    """`loop.take_step` of a guided denoiser, and after its results the cache's next memory."""
    if cache is not None:
        network = CachedNetwork(denoiser.network, cache, memory)
        denoiser = dataclasses.replace(denoiser, network=network)
    result = loop.take_step(guidance(denoiser, condition), solver, *step)
    return *result, None if cache is None else network.memory
