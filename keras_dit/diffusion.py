"""Training and sampling as one Keras model."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend, notices, processes, sampling, weights
from keras_dit.codecs import Codec, Pixels
from keras_dit.guidance import Guidance, Unguided
from keras_dit.networks.base import Network
from keras_dit.objectives import Objective
from keras_dit.predictions import Prediction
from keras_dit.processes import Process
from keras_dit.sampling.caching import Cache, check_network
from keras_dit.sampling.denoiser import Denoiser
from keras_dit.sampling.generation import Generation, Interrupted, Run
from keras_dit.schedules import NoiseSchedule, TimeGrid
from keras_dit.serialization import register
from keras_dit.solvers import DDIM, Solver
from keras_dit.training import checks
from keras_dit.training.profiles import Power
from keras_dit.training.trainer import Trainer


@register
class Diffusion(Trainer):
    """A diffusion model: a network with the mathematics that trains and samples it.

    `fit`, `evaluate`, `save` and callbacks are Keras's. The loss is computed here, so `compile`
    takes no loss: x are images, y their labels.

    Next to the weights it keeps their exponential moving average (EMA) in float32, which
    `evaluate` and `generate` use; training never sees it. After n updates the average forgets
    at the rate min(ema, n / (n + 10)): it starts as a copy and lengthens with the run. It takes in
    the weights after each step.

    A step whose loss or gradient is not finite is not applied: weights, average and optimizer
    stay as they were. The logs of `fit` count such steps as `skipped`; a number of them in a row
    end the training.

    Args:
        network: a `DiTModel`.
        schedule, prediction, objective: parts of the process that are to be others.
        codec: images <-> what the network sees; None: `Pixels()`, images in [−1, 1]. A network
            that it holds is kept and saved with this model, and not trained.
        ema: decay in [0, 1) of the average for each step; or an `averages.Power`, for averages
            whose length is chosen after training; or None for no average.
        process: how data becomes noise and what the network learns of it, a `Process` such as
            `processes.named("flow")`; None: as DiT was published, "ddpm", or "dit" where the
            network has the channels for a learned variance.
        class_names: names of the classes in their order, kept for people and the command.

    Raises:
        ValueError: if the parts do not fit each other.

    Example:

    >>> images, labels = keras_dit.datasets.load_digits()
    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10)
    >>> diffusion = Diffusion(network, ema=0.99)
    >>> diffusion.compile(keras.optimizers.AdamW(1e-3))
    >>> history = diffusion.fit(images[:64], labels[:64], batch_size=32, verbose=0)
    >>> diffusion.generate(labels=[3, 7], steps=2).shape
    (2, 8, 8, 1)

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), algorithms 1 and 2.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule | None = None,
        prediction: Prediction | None = None,
        objective: Objective | None = None,
        codec: Codec | None = None,
        ema: float | Power | None = 0.9999,
        *,
        process: Process | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.network = network
        self.class_names = checks.class_names(class_names, network)
        parts = {"schedule": schedule, "prediction": prediction, "objective": objective}
        self.process = processes.for_network(network, process, **parts)
        self.codec = checks.instance("codec", codec, Pixels, Codec)
        self.codec.data_shape(network.image_shape)  # raises where it is not for such a network
        # Where Keras finds them: it looks for layers among the attributes of a model.
        self.codec_layers = [v for v in vars(self.codec).values() if isinstance(v, keras.Layer)]
        for layer in self.codec_layers:
            layer.trainable = False
        self.prepare(ema)
        self._hold(self.process.objective)
        # It holds compiled functions, nothing that Keras should track or save.
        object.__setattr__(self, "_generation", Generation())
        self.build()

    # Construction

    @classmethod
    def from_preset(cls, preset: Any, **overrides: Any) -> "Diffusion":
        """A diffusion model with published weights and the process that belongs to them.

        DiT: DDPM's linear table, the noise and, where the network has it, a learned variance.
        SiT: straight lines with reversed time. A folder of diffusers: what its scheduler says.
        What `weights.export` wrote: the process it was given. Four channels are latents, scaled
        by 0.18215. SiT's tensors have DiT's names: unless a checkpoint's own settings say which
        it is, a file whose name starts with "sit" is SiT's.

        Args:
            preset: a file, a folder or `hf://owner/name`, or a `Source`, as for
                `keras_dit.weights.load`.
            **overrides: arguments of `Diffusion`, and of `DiTModel` as for `weights.load`: with
                others than the weights are for, such as num_classes, it is to be trained further.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file that holds no network.
        """
        names = ("process", "schedule", "prediction", "objective", "codec", "ema", "class_names")
        parts = {name: overrides.pop(name) for name in names if name in overrides}
        source = weights.open_source(preset)
        network = source.network(class_names=parts.get("class_names"), **overrides)
        known = source.class_names if len(source.class_names or ()) == network.num_classes else None
        parts.setdefault("class_names", None if "keep" in overrides else known)
        return cls(network, **{**source.parts(network, parts), **parts})

    @property
    def schedule(self) -> NoiseSchedule:
        """The `NoiseSchedule` of the process."""
        return self.process.schedule

    @property
    def prediction(self) -> Prediction:
        """The `Prediction` of the process."""
        return self.process.prediction

    @property
    def objective(self) -> Objective:
        """The `Objective` of the process. Another one may be given between two trainings."""
        return self.process.objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        self.process = processes.for_network(self.network, self.process, objective=objective)
        self._hold(objective)

    def build(self, *_):
        """Nothing: the network is built at construction."""

    def get_build_config(self):
        return None

    # Sampling

    def denoiser(self) -> Denoiser:
        """E[x0 | x_t] as the averaged weights know it: a `Denoiser`.

        Before the first update of the average it has the weights, which may have been loaded since.
        """
        self._settle_average()
        values = self.network.weights
        if self.average is not None:
            (updates,) = self._live.taken(self, [self.average.updates])
            if int(ops.convert_to_numpy(updates)) > 0:
                values = self.average.values
        values = self._live.taken(self, values)
        return Denoiser(self.network, self.schedule, self.prediction, values)

    def generate(
        self,
        labels: Any = None,
        num_images: int | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: Guidance | None = None,
        grid: TimeGrid | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 64,
        callback: Callable | None = None,
        verbose: bool | str = False,
        cache: Cache | None = None,
        jit_compile: bool | str = "auto",
        conditions: dict | None = None,
        image_size: int | tuple[int, int] | None = None,
        caching: Cache | None = None,
    ) -> np.ndarray:
        """Make images.

        An image depends on the seed, its place in the call, its label and the settings, not
        on batch_size, and is the same on every backend to float tolerance.

        Interrupted (Ctrl-C), it returns with a warning what there is: the finished batches, and
        of the batch under way its last estimates. Before the first step KeyboardInterrupt is
        raised as usual.

        Args:
            labels: for each image its class, or None for no class; short for
                conditions={"label": labels}.
            num_images: how many images, if no labels are given.
            steps: number of solver steps, at most the schedule's own number; None: the grid's
                number where it has one, else 50.
            solver: a `Solver`; None: `DDIM()`.
            guidance: a `Guidance`; None: `Unguided()`.
            grid: a `TimeGrid`; None: the schedule's.
            seed: integer of 0 or more; or a list with one for each image, which then does not
                depend on its place: it is the first image of that seed.
            batch_size: how many images are made at once, at most.
            callback: called as callback(step, t, x_t, x0) after each step of each batch, with
                numpy arrays as the network sees them; `sampler.Trajectory()` keeps them.
            verbose: whether to show a progress bar, which counts evaluations of the network; a
                string: what stands before it.
            cache: a `Cache`, which leaves out blocks of the network where little changes, such
                as `caching.PeriodicCache()`; None: none is left out.
            jit_compile: True: the steps are compiled by XLA (JAX, TensorFlow) or torch.compile;
                False: they are not; "auto": what measures fastest, the time to compile counted.
            conditions: what the network is told, a dict of values by name, one for each image;
                what is not named is not said.
            image_size: (H, W) of the images, or one integer for both, of a network that is for
                several sizes; None: the first. (`adapt.resize` makes a network for another one.)
            caching: the name of `cache` in 0.1.0.

        Returns:
            numpy float32 (N, H, W, C) in the codec's range, by default [−1, 1].

        Raises:
            ValueError: for labels the network does not have or settings that make no run.
        """
        settings = steps, solver, guidance, grid, seed, batch_size, callback, verbose, cache
        batches = self.generate_batches(
            labels, num_images, *settings, jit_compile, conditions, image_size, caching
        )
        made: list[np.ndarray] = []
        try:
            for images in batches:
                made.append(images)  # one by one: what there is stays when it is interrupted
        except Interrupted as interruption:
            if interruption.estimate is None and not made:
                raise
            words = str(interruption)
            if interruption.estimate is not None:
                made.append(self.codec.decode(interruption.estimate))
                words += f", {len(made[-1])} are estimates"
            notices.warn(words)
        return np.concatenate(made)

    def generate_batches(
        self,
        labels: Any = None,
        num_images: int | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: Guidance | None = None,
        grid: TimeGrid | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 64,
        callback: Callable | None = None,
        verbose: bool | str = False,
        cache: Cache | None = None,
        jit_compile: bool | str = "auto",
        conditions: dict | None = None,
        image_size: int | tuple[int, int] | None = None,
        caching: Cache | None = None,
    ) -> Iterator[np.ndarray]:
        """Make images batch by batch, so that all of them never are in memory at once.

        Args:
            labels, num_images, ...: as for `generate`.

        Returns:
            An iterator of numpy float32 (B, H, W, C) with B of at most batch_size. Arguments are
            checked at the call, each batch is made when it is asked for. Interrupted, it raises
            KeyboardInterrupt.
        """
        if caching is not None:
            notices.warn("caching= is named cache=", DeprecationWarning)
            cache = caching
        condition, count = checks.requested(self.network, labels, conditions, num_images)
        solver = checks.instance("solver", solver, DDIM, Solver)
        guidance = checks.instance("guidance", guidance, Unguided, Guidance)
        guidance = guidance.prepared(self.network)
        times = sampling.run_times(self.schedule, steps, grid)
        sampling.check_seed(seed, count)
        if cache is not None:
            check_network(self.network)
            Cache.checked("cache", cache)
        checks.jit_compile(jit_compile)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: batch_size={batch_size}")
        batches = max(math.ceil(count / batch_size), min(backend.members(), count))
        chunks = np.array_split(np.arange(count), batches)
        guidance.simplified(times, np.arange(count), count)  # so that its errors come now
        shape = checks.sample_shape(self.network, self.codec, image_size)
        run = Run(self.denoiser(), times, count, solver, guidance, cache, seed, callback, shape)
        return self._generation(run, chunks, condition, self._decode, verbose, jit_compile)

    def _decode(self, samples):
        """Images of samples, while another thread may train."""
        held = [weight for layer in self.codec_layers for weight in layer.weights]
        with self._live.reading(self, held):
            return self.codec.decode(samples)

    def sampling_network(self, dtype: Any = None) -> Network:
        """A copy of the network with the weights that `generate` uses, such as for an export.

        Args:
            dtype: what it computes in and holds its weights as, such as "bfloat16" or "int8", as
                for `Network.copied`; None: as the network does.
        """
        return self.network.copied(self.denoiser().values, dtype)

    # Saving

    def save(self, *arguments: Any, **settings: Any) -> None:
        """Write a file, as `keras.Model.save`; of several processes one does, by itself.

        Args:
            *arguments, **settings: as for `keras.Model.save`.
        """
        with backend.alone():
            super().save(*arguments, **settings)

    def get_config(self) -> dict:
        parts = {"network": self.network, "process": self.process, "codec": self.codec}
        config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        names = {} if self.class_names is None else {"class_names": list(self.class_names)}
        ema = keras.saving.serialize_keras_object(self.ema)
        return {"name": self.name, "ema": ema, **names, **config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        load = keras.saving.deserialize_keras_object
        return cls(**{name: load(value, custom_objects) for name, value in config.items()})
