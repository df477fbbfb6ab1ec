"""The batches of `Diffusion.generate`."""

import dataclasses
import itertools
import warnings

import numpy as np
from keras import ops, tree
from tqdm.auto import tqdm

from keras_dit import backend
from keras_dit.sampling import loop
from keras_dit.sampling import noise as noises
from keras_dit.sampling.caching import CachedNetwork


class Generation:
    """Runs the sampling loop for batches, its steps compiled.

    Args:
        denoiser: a `Denoiser`.
    """

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self._compiled = {}  # by solver, form of guidance, class of cache and jit_compile

    def __call__(
        self,
        condition,
        chunks,
        times,
        solver,
        guidance,
        caching=None,
        seed=0,
        callback=None,
        verbose=False,
        jit_compile="auto",
    ):
        """Samples of the network.

        Args:
            condition: a nest of numpy arrays (N, ...), or None.
            chunks: the numbers of each batch's samples, a list of int arrays.
            times: of the run, falling to 0.
            solver, guidance, caching, seed, callback, verbose, jit_compile: as for
                `Diffusion.generate`.

        Returns:
            numpy (N, ...). After an interruption (Ctrl-C), with a warning, what there is: the
            finished batches, and of the batch under way its last estimates.
        """
        rates = loop.run_rates(self.denoiser.schedule, times)
        evaluations = loop.evaluations(solver, len(rates))  # of a batch
        count = sum(map(len, chunks))
        values = self.denoiser.values()
        done, estimate = [], None
        look = {"desc": "sampling", "unit": "evaluation", "dynamic_ncols": True}
        with tqdm(total=evaluations * len(chunks), disable=not verbose, **look) as bar:
            for chunk in chunks:
                told = condition
                if told is not None:
                    told = tree.map_structure(lambda v, c=chunk: ops.convert_to_tensor(v[c]), told)
                step = itertools.count()
                memory = None if caching is None else caching.start()

                def advance(x, here, there, state, noise, chunk=chunk, step=step, y=told):
                    nonlocal estimate, memory
                    i = next(step)
                    looks = 1 if there is None else solver.evaluations
                    form, numbers = guidance.split(chunk, count, times[i : i + looks])
                    compiled = self._step(solver, form, type(caching), jit_compile)
                    *result, memory = compiled(
                        values, numbers, memory, y, x, here, there, state, noise
                    )
                    estimate = result[2]
                    bar.update(looks)
                    return result

                try:
                    done.append(self._batch(advance, chunk, rates, solver, seed, callback))
                except KeyboardInterrupt:
                    if not done and estimate is None:
                        raise
                    return self._interrupted(done, estimate, count)
                estimate = None
                if caching is not None:
                    bar.set_postfix_str(caching.finish(memory, evaluations))
        return np.concatenate(done)

    def _batch(self, advance, chunk, rates, solver, seed, callback):
        noise = noises.initial_noise(seed, chunk, self.denoiser.network.image_shape)
        step_noise = noises.HostNoise(seed, chunk, noise.shape[1:], stream=1)
        x0 = loop.run(advance, noise, rates, solver, step_noise, callback)
        return ops.convert_to_numpy(x0)

    def _interrupted(self, done, estimate, count):
        finished = sum(map(len, done))
        if estimate is not None:
            done = [*done, ops.convert_to_numpy(estimate)]
        there = sum(map(len, done))
        warnings.warn(
            f"interrupted: {finished} of {count} pictures are finished"
            + (f", {there - finished} are estimates" if there > finished else ""),
            stacklevel=4,
        )
        return np.concatenate(done)

    def _step(self, solver, form, cache, jit_compile):
        """`loop.take_step`, compiled once for each combination of the arguments.

        It takes the cache's memory before the condition and returns the new one last.
        """
        key = solver, form, cache, jit_compile
        if key not in self._compiled:

            def advance(values, numbers, memory, condition, x, here, there, state, noise):
                denoiser = self.denoiser.bind(values)
                network = denoiser.network
                if memory is not None:
                    network = CachedNetwork(network, cache, memory)
                    denoiser = dataclasses.replace(denoiser, network=network)
                denoise = form.bind(numbers)(denoiser, condition)
                result = loop.take_step(denoise, solver, x, here, there, state, noise)
                return *result, None if memory is None else network.memory

            self._compiled[key] = backend.compile_inference(advance, jit_compile)
        return self._compiled[key]
