"""A sampling run as one model, for programs without Keras."""

from typing import Any

import keras
from keras import ops

from keras_dit.guidance import Guidance, Unguided
from keras_dit.networks.exporting import Exportable, condition_signature
from keras_dit.sampling import loop
from keras_dit.sampling.denoiser import Denoiser
from keras_dit.sampling.noise import Drawn
from keras_dit.schedules import Rates, TimeGrid
from keras_dit.solvers import DDIM, Solver

__all__ = ["Sampler"]


class Sampler(Exportable):
    """A whole run of fixed settings as one model: noise -> samples.

    It is there to be exported (`Sampler.export`), and gives what `Diffusion.generate` gives of the
    same noise, before the codec. What is written holds the network once and its operations once
    for each evaluation, so that a file grows with the steps.

    Args:
        denoiser: such as `Diffusion.denoiser()`; of its weights a copy is taken.
        steps, solver, guidance, grid: as for `Diffusion.generate`. All samples have one scale.

    Call:
        noise (B, H, W, C), y as the network takes it, step_noise (B, steps − 1, H, W, C) ->
        samples (B, H, W, C), float32. A network that is told nothing has no y, and a solver
        without noise no step_noise.

    Raises:
        ValueError: for settings that make no run.

    Example:
        >>> network = keras_dit.DiTModel((8, 8, 1), 2, 16, 1, 2, num_classes=10)
        >>> diffusion = keras_dit.Diffusion(network)
        >>> sampler = keras_dit.sampler.Sampler(
        ...     diffusion.denoiser(), steps=3, guidance=keras_dit.guidance.ClassifierFree(2.0))
        >>> noise = keras_dit.sampler.initial_noise(seed=0, indices=range(2), shape=(8, 8, 1))
        >>> sampler(noise, np.array([3, 7])).shape == (2, 8, 8, 1)
        True
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: Guidance | None = None,
        grid: TimeGrid | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        times = loop.run_times(denoiser.schedule, steps, grid)
        self.solver = Solver.checked("solver", DDIM() if solver is None else solver)
        guidance = Guidance.checked("guidance", Unguided() if guidance is None else guidance)
        guidance = guidance.prepared(denoiser.network)
        self.guidances = self._guidances(guidance, times)
        rates = loop.run_rates(denoiser.schedule, times)
        # On the host: what is traced is to hold them as numbers.
        self.rates = [[float(ops.convert_to_numpy(x)) for x in row] for row in rates]
        self.network = denoiser.network.copied(denoiser.values)
        self.network.trainable = False  # nothing is kept for gradients
        self.denoiser = Denoiser(self.network, denoiser.schedule, denoiser.prediction)
        self.built = True

    def _guidances(self, guidance, times):
        """That of each step."""
        looks = [self.solver.evaluations] * (len(times) - 2) + [1]
        try:
            return [guidance.simplified(times[i : i + n], (), 0) for i, n in enumerate(looks)]
        except ValueError:
            raise ValueError(
                f"guidance must have one scale for all samples. Received: {guidance}"
            ) from None

    def input_signature(self) -> list:
        shape, told = self.network.image_shape, condition_signature(self.network.null(1))
        signature = [_spec((None, *shape), "noise"), *told]
        if self.solver.stochastic:
            step_noise = _spec((None, len(self.rates) - 1, *shape), "step_noise")
            signature.append(step_noise)
        return signature

    def call(self, noise: Any, *told: Any) -> Any:
        step_noise = None
        if self.solver.stochastic:
            noises, told = told[-1], told[:-1]  # (B, steps − 1, ...)
            step_noise = Drawn(noises[:, step] for step in range(len(self.rates) - 1))
        condition = told[0] if told else None
        denoiser, guidances = self.denoiser.settled(), iter(self.guidances)

        def advance(x, here, there, state, z):
            denoise = next(guidances)(denoiser, condition)
            return loop.take_step(denoise, self.solver, x, here, there, state, z)

        rates = [Rates(*(ops.convert_to_tensor(x, "float32") for x in row)) for row in self.rates]
        return loop.run(advance, noise, rates, self.solver, step_noise, None)


def _spec(shape, name):
    return keras.InputSpec(shape=shape, dtype="float32", name=name)
