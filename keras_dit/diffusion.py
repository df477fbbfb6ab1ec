"""Training and sampling as one Keras model."""

import math
import warnings

import keras
import numpy as np
from keras import ops
from tqdm.auto import tqdm

from keras_dit import backend, sampler
from keras_dit.codecs import Codec, Pixels
from keras_dit.conditioning import check_labels
from keras_dit.denoiser import Denoiser
from keras_dit.guidance import Guidance, Unguided
from keras_dit.objectives import MeanSquaredError, Objective
from keras_dit.predictions import LearnedVariance, Noise, Prediction
from keras_dit.schedules import LinearBeta, NoiseSchedule, broadcast
from keras_dit.serialization import register
from keras_dit.solvers import DDIM, Solver


@register
class Diffusion(keras.Model):
    """A diffusion model: a network with the mathematics that trains and samples it.

    `fit`, `evaluate`, `save` and callbacks are Keras's. The loss is computed here, so `compile`
    takes no loss: x are pictures, y their labels.

    Next to the weights it keeps their exponential moving average (EMA) in float32, which
    `evaluate` and `generate` use; training never sees it. After n updates the average forgets
    at the rate min(ema, n / (n + 10)): it starts as a copy and lengthens with the run. The
    average takes in the weights at the start of each step, so it is one step behind.

    Args:
        network: a `DiTModel`.
        schedule: a `NoiseSchedule`; None: `LinearBeta()`, as DiT was published.
        prediction: what the network's output means; None: `Noise()`, with `LearnedVariance`
            if the network has the channels for it.
        objective: times and weights of the loss; None: `MeanSquaredError()`.
        codec: pictures <-> what the network sees; None: `Pixels()`, pictures in [−1, 1].
        ema: decay in [0, 1) of the average for each step, or None for no average.

    Raises:
        ValueError: if the parts do not fit each other.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), algorithms 1 and 2.
    """

    def __init__(
        self,
        network,
        schedule=None,
        prediction=None,
        objective=None,
        codec=None,
        ema=0.9999,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.network = network
        self.schedule = _instance("schedule", schedule, LinearBeta, NoiseSchedule)
        self.prediction = _instance(
            "prediction", prediction, lambda: _default_prediction(network), Prediction
        )
        self.objective = _instance("objective", objective, MeanSquaredError, Objective)
        self.codec = _instance("codec", codec, Pixels, Codec)
        self.ema = ema
        self._check_parts()
        self.training_seed = keras.random.SeedGenerator()
        self.evaluation_seed = keras.random.SeedGenerator(seed=0)
        self._create_average()
        # Compiled sampling steps by (solver, guidance). They hold functions, nothing that Keras
        # should track or save.
        object.__setattr__(self, "_compiled_steps", {})
        self.build()

    # Construction

    def _check_parts(self):
        channels = self.network.image_shape[-1]
        expected = self.prediction.output_channels(channels)
        if self.network.output_channels != expected:
            raise ValueError(
                f"the prediction needs a network with {expected} output channels "
                "(learned_variance=True doubles them). "
                f"Received: {self.prediction} and {self.network.output_channels} output channels"
            )
        if self.prediction.needs_signal and not ops.convert_to_numpy(self.schedule(1.0).alpha) > 0:
            raise ValueError(
                "the clean sample cannot be had from the noise where the schedule has no signal "
                "(alpha(1) = 0): use predictions.FlowVelocity(), V() or CleanSample(). "
                f"Received: prediction={self.prediction}, schedule={self.schedule}"
            )
        if self.ema is not None and not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be None or in [0, 1). Received: ema={self.ema!r}")

    def _create_average(self):
        self.average = []
        if self.ema is None:
            return
        self.average_updates = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="average_updates"
        )
        for weight in self.network.weights:
            average = self.add_weight(
                shape=weight.shape,
                initializer="zeros",
                dtype="float32",
                trainable=False,
                name=f"average_{len(self.average)}",
            )
            self.average.append(average)
        self._restart_average()

    def _restart_average(self):
        """Make the average a copy of the weights, as it has to be until the first update."""
        for average, weight in zip(self.average, self.network.weights, strict=True):
            # Through numpy: on JAX two variables that share a buffer cannot be donated.
            average.assign(ops.convert_to_numpy(ops.cast(weight, "float32")))

    def build(self, *_):
        """Nothing: the network is built at construction."""

    def get_build_config(self):
        return None

    # Training

    def compile(self, optimizer=None, jit_compile=None, **kwargs):
        """Set the optimizer.

        Args:
            optimizer: a Keras optimizer or its name; None: AdamW at learning rate 1e-4 without
                weight decay, as DiT was trained.
            jit_compile: whether to train through XLA (JAX, TensorFlow) or torch.compile; None:
                what is faster on this backend.
            **kwargs: the other arguments of `keras.Model.compile`, but for `loss`.
        """
        if kwargs.get("loss") is not None:
            raise ValueError("the loss belongs to Diffusion(objective=...): compile takes none")
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.0)
        if jit_compile is None:
            jit_compile = backend.jit_compile_training()
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        # How to compile is the loading backend's choice.
        return {"optimizer": keras.optimizers.serialize(self.optimizer)}

    def compile_from_config(self, config):
        self.compile(optimizer=keras.optimizers.deserialize(config["optimizer"]))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Train. As `keras.Model.fit`, with pictures as x and labels as y.

        Args:
            x: pictures (N, H, W, C) in the codec's range, or a data set of (pictures, labels):
                a `keras.utils.PyDataset`, a tf.data.Dataset, a torch DataLoader, a generator.
            y: labels (N,), integers in 0 … num_classes − 1; None if x is a data set or the
                network has no classes.
            *args, **kwargs: as for `keras.Model.fit`.

        Raises:
            ValueError: for pictures or labels that do not fit the network. Arrays are checked
                whole, of a data set the first batch.
        """
        x = self._checked(x, y)
        validation = kwargs.get("validation_data")
        if isinstance(validation, (tuple, list)):
            self._checked(*validation[:2])
        if isinstance(x, keras.utils.PyDataset):
            kwargs.setdefault("shuffle", False)  # its order is its own, so that it can be repeated
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """The loss of the averaged weights, as `keras.Model.evaluate`.

        Times and noise are the same at every call, so that two losses can be compared.
        """
        if x is not None and not kwargs.get("_use_cached_eval_dataset"):
            x = self._checked(x, y)
        fresh = keras.random.SeedGenerator(seed=0)
        self.evaluation_seed.state.assign(ops.convert_to_numpy(fresh.state))
        self._sampling_weights()
        return super().evaluate(x, y, *args, **kwargs)

    def call(self, x):
        return x  # the network runs in compute_loss, where noise and time are drawn

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The objective on a batch; in training the average moves too. A float32 scalar."""
        seed = self.training_seed if training else self.evaluation_seed
        x0 = self.codec.encode(x)
        t = self.schedule.snap(self.objective.sample_times(ops.shape(x0)[0], seed))
        noise = keras.random.normal(ops.shape(x0), seed=seed, dtype="float32")
        rates = self.schedule(t)
        factor = broadcast(rates, x0)
        x_t = factor.alpha * x0 + factor.sigma * noise  # (B, H, W, C)
        if y is not None:
            y = ops.reshape(ops.cast(y, "int32"), (-1,))
        output = self._output(x_t, self.schedule.timestep(t), y, training)
        loss = self.objective.loss(output, x0, noise, rates, self.prediction)  # (B,)
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        if training:
            self._update_average()
        return ops.mean(loss)

    def _output(self, x_t, timestep, y, training):
        if training or not self.average:
            return self.network(x_t, timestep, y, training=training)
        # A scope hides the one around it, so every variable has to be in it.
        values = {id(v): ops.convert_to_tensor(v) for v in self.network.variables}
        values.update(
            (id(v), ops.convert_to_tensor(a))
            for v, a in zip(self.network.weights, self.average, strict=True)
        )
        with keras.StatelessScope([(v, values[id(v)]) for v in self.network.variables]):
            return self.network(x_t, timestep, y, training=False)

    def _update_average(self):
        if not self.average:
            return
        n = ops.cast(self.average_updates, "float32")
        rate = 1.0 - ops.minimum(self.ema, n / (n + 10.0))
        for average, weight in zip(self.average, self.network.weights, strict=True):
            new = ops.stop_gradient(ops.cast(weight, "float32"))
            average.assign(average + rate * (new - average))
        self.average_updates.assign(self.average_updates + 1)

    # Sampling

    def generate(
        self,
        labels=None,
        num_images=None,
        steps=50,
        solver=None,
        guidance=None,
        grid=None,
        seed=0,
        batch_size=64,
        callback=None,
        verbose=False,
    ):
        """Make pictures.

        A picture depends on the seed, its place in the call, its label and the settings, not
        on batch_size, and is the same on every backend to float tolerance.

        Args:
            labels: for each picture its class, or None for no class.
            num_images: how many pictures, if no labels are given.
            steps: number of solver steps, at most the schedule's own number.
            solver: a `Solver`; None: `DDIM()`.
            guidance: a `Guidance`; None: `Unguided()`.
            grid: a `TimeGrid`; None: `UniformGrid()`.
            seed: integer of 0 or more.
            batch_size: how many pictures are made at once, at most.
            callback: called as callback(step, t, x_t, x0) after each step of each batch, with
                numpy arrays as the network sees them.
            verbose: whether to show a progress bar.

        Returns:
            numpy float32 (N, H, W, C) in the codec's range, by default [−1, 1].

        Raises:
            ValueError: for labels the network does not have or settings that make no run.
        """
        labels, count = self._requested(labels, num_images)
        solver = _instance("solver", solver, DDIM, Solver)
        guidance = _instance("guidance", guidance, Unguided, Guidance)
        sampler.check_steps(steps, self.schedule)
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: batch_size={batch_size}")
        chunks = np.array_split(np.arange(count), math.ceil(count / batch_size))
        compiled, weights = self._compiled_step(solver, guidance), self._sampling_weights()
        pictures = []
        with tqdm(total=steps * len(chunks), disable=not verbose, unit="step") as bar:
            for chunk in chunks:
                condition = None if labels is None else ops.convert_to_tensor(labels[chunk])

                def advance(*arguments, condition=condition):
                    result = compiled(weights, condition, *arguments)
                    bar.update()
                    return result

                noise = sampler.initial_noise(seed, chunk, self.network.image_shape)
                steps_noise = sampler.HostNoise(seed, chunk, noise.shape[1:], stream=1)
                x0 = sampler.run(
                    advance, noise, self.schedule, steps, solver, grid, steps_noise, callback
                )
                pictures.append(self.codec.decode(ops.convert_to_numpy(x0)))
        return np.concatenate(pictures)

    def _requested(self, labels, num_images):
        """The labels as numpy int32, the null label for None, and how many pictures."""
        classes = self.network.num_classes
        if labels is None:
            if not isinstance(num_images, int) or num_images < 1:
                raise ValueError(f"give labels, or num_images of 1 or more. Got {num_images!r}")
            empty = None if classes is None else np.full(num_images, classes, "int32")
            return empty, num_images
        if classes is None:
            raise ValueError("the network has no classes (num_classes=None): give no labels")
        labels = list(np.atleast_1d(np.asarray(labels, dtype=object)))
        if not labels or (num_images is not None and num_images != len(labels)):
            raise ValueError(f"num_images={num_images}, but there are {len(labels)} labels")
        given = np.array([label is not None for label in labels])
        array = np.full(len(labels), classes, "int32")
        if given.any():
            array[given] = check_labels([x for x in labels if x is not None], classes)
        return array, len(labels)

    def _sampling_weights(self):
        """The values of the network's variables to sample with: the average, if there is one."""
        if not self.average:
            return [ops.convert_to_tensor(v) for v in self.network.variables]
        if int(ops.convert_to_numpy(self.average_updates)) == 0:
            self._restart_average()  # weights may have been loaded into the network since
        averaged = {
            id(v): ops.convert_to_tensor(ops.cast(a, v.dtype))
            for v, a in zip(self.network.weights, self.average, strict=True)
        }
        return [averaged.get(id(v), ops.convert_to_tensor(v)) for v in self.network.variables]

    def _compiled_step(self, solver, guidance):
        """`sampler.take_step`, compiled once for each solver and guidance."""
        key = (solver, guidance)
        if key not in self._compiled_steps:
            variables = self.network.variables
            denoiser = Denoiser(self.network, self.schedule, self.prediction)

            def advance(weights, condition, x, here, there, state, noise):
                with keras.StatelessScope(list(zip(variables, weights, strict=True))):
                    denoise = guidance(denoiser, condition)
                    return sampler.take_step(denoise, solver, x, here, there, state, noise)

            self._compiled_steps[key] = backend.compile_inference(advance)
        return self._compiled_steps[key]

    # Checks of what is given

    def _checked(self, x, y):
        """x, after its first batch (of arrays, everything) has been found to fit the network."""
        if hasattr(x, "shape"):
            self._check_batch(x, y)
            return x
        if x is None:
            raise ValueError("give pictures as x. Received: x=None")
        if isinstance(x, keras.utils.PyDataset):
            batch = x[0]
        else:
            iterator = iter(x)
            batch = next(iterator, None)
            if batch is None:
                raise ValueError("the data set is empty")
            if iterator is x:  # a generator: what was taken has to be put back
                x = _chained(batch, iterator)
        batch = batch if isinstance(batch, (tuple, list)) else (batch,)
        self._check_batch(*(batch[:2] if len(batch) > 1 else (batch[0], None)))
        return x

    def _check_batch(self, images, labels):
        expected, shape = self.network.image_shape, tuple(images.shape)
        if len(shape) != 4 or shape[1:] != expected:
            raise ValueError(
                "pictures must be (batch, height, width, channels), channels last, here "
                f"(batch, {', '.join(map(str, expected))}). Received: shape {shape}"
            )
        if shape[0] == 0:
            raise ValueError(f"there are no pictures. Received: shape {shape}")
        self._warn_of_range(np.asarray(images[:256]))
        classes = self.network.num_classes
        if classes is None:
            if labels is not None:
                raise ValueError("the network has no classes (num_classes=None): give no labels")
        elif labels is None:
            raise ValueError(f"the network has {classes} classes: give labels as y")
        else:
            check_labels(labels, classes, shape[0])

    def _warn_of_range(self, images):
        low, high = self.codec.low, self.codec.high
        slack = 0.5 * (high - low)  # noise-augmented pictures may overshoot a little
        if images.min() < low - slack or images.max() > high + slack:
            warnings.warn(
                f"pictures are expected in [{low:g}, {high:g}] but reach from "
                f"{images.min():g} to {images.max():g}: scale them, or for 0 ... 255 use "
                "Diffusion(codec=keras_dit.codecs.Pixels(0, 255))",
                stacklevel=4,
            )

    # Saving

    def get_config(self):
        parts = {
            "network": self.network,
            "schedule": self.schedule,
            "prediction": self.prediction,
            "objective": self.objective,
            "codec": self.codec,
        }
        config = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {"name": self.name, "ema": self.ema, **config}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        load = keras.saving.deserialize_keras_object
        return cls(**{name: load(value, custom_objects) for name, value in config.items()})


def _chained(first, rest):
    """A generator whose first batch has been looked at: that batch, then the rest."""
    yield first
    yield from rest


def _default_prediction(network):
    learned = network.output_channels == 2 * network.image_shape[-1]
    return LearnedVariance(Noise()) if learned else Noise()


def _instance(name, value, default, kind):
    """The value, or the default for None; ValueError for anything that is not of that kind."""
    value = default() if value is None else value
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} must be an object of a class of keras_dit's {kind.__name__}s. "
            f"Received: {name}={value!r}"
        )
    return value
