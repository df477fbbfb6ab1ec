"""What `Diffusion` makes of Keras's trainer: checked data, steps, the average, checkpoints."""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dit import backend, notices
from keras_dit.training import checks, data, shares, step
from keras_dit.training.average import WeightAverage
from keras_dit.training.callbacks import Callbacks, steps
from keras_dit.training.checkpoints import Checkpoint, names
from keras_dit.training.profiles import Power
from keras_dit.training.skips import Progress, StopOnSkips


class Beside(keras.layers.Layer):
    """Layers that a step looks at and does not move; they may change after it is built."""

    def __init__(self, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.held: list = []
        self.built = True


class Trainer(backend.BuiltModel):
    """Trains a network by the steps of `training.step`. A subclass has the parts it names.

    Attributes:
        network, process, codec: set by the subclass, which then calls `prepare`.
        average: the `WeightAverage` of the network, or None.
        skipped: how many steps were not applied, an int32 variable.
    """

    network: Any
    process: Any
    codec: Any

    def prepare(self, ema: float | Power | None) -> None:
        """Make what training keeps beside the network.

        Args:
            ema: decay in [0, 1) of the average for each step, a `Power`, or None for no average.
        """
        self.ema = ema
        self._compiled_for = None
        self._recorded = True
        self.programs = None  # of the gradient, made with the train function
        self.training_seed = backend.SeedGenerator()
        self.evaluation_seed = backend.SeedGenerator(seed=0)
        self.average = None if ema is None else WeightAverage(ema, self.network, name="average")
        self.skipped = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="skipped"
        )
        self.beside = Beside(name="beside")
        object.__setattr__(self, "_live", backend.LiveValues())

    def _hold(self, objective):
        """Hand an objective's layers to Keras, so that a step is given their numbers."""
        for layer in objective.layers:
            layer.trainable = False
        self.beside.held = list(objective.layers)
        self.train_function = self.test_function = None  # which would be those of another

    def compile(
        self, optimizer: Any = None, jit_compile: bool | None = None, **kwargs: Any
    ) -> None:
        """Set the optimizer.

        Args:
            optimizer: a Keras optimizer or its name; None: AdamW at learning rate 1e-4 without
                weight decay, as DiT was trained.
            jit_compile: whether to train through XLA (JAX, TensorFlow) or torch.compile; None:
                what is faster on this backend, which on a GPU under torch is a CUDA graph of the
                loss and its gradient.
            **kwargs: the other arguments of `keras.Model.compile`, but for the loss and metrics. A
                network that computes in float16 has its loss scaled unless `auto_scale_loss=False`.

        Raises:
            ValueError: for a loss or metrics.
        """
        checks.compiling(kwargs)
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.0)
        optimizer = keras.optimizers.get(optimizer)
        checks.replicated(optimizer, self)
        if self.network.compute_dtype == "float16" and kwargs.pop("auto_scale_loss", True):
            optimizer = step.scaling_loss(optimizer)
        self._recorded = jit_compile is None
        if jit_compile is None:
            jit_compile = backend.jit_compile_training(backend.share(self))
        with step.float32():  # in which Keras then keeps the mean of the loss
            super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self._compiled_for = None  # the names of the weights that the optimizer was built for

    def get_compile_config(self):
        # The adapters (LoRA) that an optimizer was made for are merged in a file.
        if not self.compiled or names.below_adapters(self.network):
            return {}
        # How to compile is the loading backend's choice.
        return {"optimizer": keras.optimizers.serialize(self.optimizer)}

    def compile_from_config(self, config):
        self.compile(optimizer=keras.optimizers.deserialize(config["optimizer"]))
        self.optimizer.build(self.trainable_variables)
        self._check_compiled()

    def _check_compiled(self):
        """Raise ValueError where there are weights to train that the optimizer does not know."""
        names = tuple(variable.path for variable in self.trainable_variables)
        self._compiled_for = names if self._compiled_for is None else self._compiled_for
        new = [name for name in names if name not in self._compiled_for]
        if new:
            raise ValueError(
                f"{len(new)} weights to train are new since compile(), such as {new[0]}: after "
                "enable_lora() or a change of trainable, compile again"
            )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Sequence | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train. As `keras.Model.fit`, with images as x and labels as y.

        Args:
            x: images (N, H, W, C) in the codec's range, or a data set of (images, labels):
                a `keras.utils.PyDataset`, a tf.data.Dataset, a torch DataLoader, a generator.
            y: labels (N,), integers in 0 … num_classes − 1; None if x is a data set or the
                network has no classes.
            callbacks: a list of `keras.callbacks.Callback`. With a `checkpoints.Checkpoint` arrays
                are shuffled by its seed, so that the run can go on at any step.
            batch_size, epochs, verbose, **kwargs: as for `keras.Model.fit`.

        Raises:
            ValueError: for images or labels that do not fit the network. Arrays are checked
                whole, of a data set the first batch.
            FloatingPointError: if many steps in a row had to be skipped.
        """
        sample_weight = kwargs.pop("sample_weight", None)
        x, y, sample_weight = self._taken(x, y, sample_weight, batch_size)
        validation = kwargs.pop("validation_data", None)
        if validation is not None:
            size = kwargs.get("validation_batch_size") or batch_size
            kwargs["validation_data"] = self._validation(validation, size)
        if not hasattr(x, "shape"):
            kwargs.setdefault("shuffle", False)  # a data set's order is its own
        if not self.trainable_variables:
            notices.warn("the network has nothing to train: trainable is False")
        self._check_compiled()
        callbacks = [StopOnSkips(), *(callbacks or ()), *([Progress()] if verbose else [])]
        kwargs |= {"batch_size": batch_size, "epochs": epochs, "verbose": verbose}
        checkpoint = next((c for c in callbacks if isinstance(c, Checkpoint)), None)
        train = self._keras_fit
        if checkpoint is not None:
            train = functools.partial(checkpoint.train, self, train)
        elif backend.processes()[1] > 1:
            train = functools.partial(shares.fit, train)
        backend.spread([*self.variables, *self.optimizer.variables])
        with self._average_follows():
            return train(x, y, sample_weight=sample_weight, callbacks=callbacks, **kwargs)

    def _keras_fit(self, x, y=None, *, callbacks, epochs=1, verbose="auto", **rest):
        if not isinstance(callbacks, Callbacks):
            asked = "batch_size", "steps_per_epoch", "validation_split"
            count = steps(x, **{name: rest[name] for name in asked if name in rest})
            callbacks = Callbacks(callbacks, count, self, epochs, verbose)
        rest |= {"callbacks": callbacks, "epochs": epochs, "verbose": verbose}
        with backend.without_waits():
            return super().fit(self._open(x), y, **rest)

    def _open(self, x):
        """Data of images of all sizes that the network is for."""
        return backend.with_open_sides(x) if len(self.network.sizes) > 1 else x

    def _taken(self, x, y, sample_weight, batch_size):
        """x, y and sample_weight as Keras takes them, if the devices can share them."""
        first: list = []
        taken = data.taken(x, y, sample_weight, self.network, self.codec, first.append)
        shares.check(self, taken[0], batch_size, *first)
        return taken

    def _validation(self, given, batch_size):
        """validation_data as Keras takes it."""
        parts = given if isinstance(given, (tuple, list)) else (given,)
        taken = self._taken(*(*parts, None, None)[:3], batch_size)
        x, *rest = shares.still(*taken, batch_size)
        x = self._open(x)
        return (x, *rest) if isinstance(given, (tuple, list)) else x

    @contextlib.contextmanager
    def _average_follows(self):
        """While this context lasts the weights are changed by training."""
        with self._live.running() as alone:
            if self.average is None:
                yield
            else:
                with self.average.following(alone):
                    yield

    def _settle_average(self):
        with self._live.idle() as idle:
            if idle and self.average is not None:
                self.average.settle()

    def make_train_function(self, force=False):
        made = self.train_function
        self.process.objective.check_ready()
        backend.build_optimizer(self)
        super().make_train_function(force)
        if self.train_function is not made:
            self.programs = backend.GradientPrograms() if self._recorded else None
            self.train_function = self._watched("train_function", super().make_train_function)

    def make_test_function(self, force=False):
        made = self.test_function
        self.process.objective.check_ready()
        super().make_test_function(force)
        if self.test_function is not made:
            self.test_function = self._watched("test_function", super().make_test_function)

    def _watched(self, name, make):
        """The function that Keras has made, for all sizes of images, and watched."""
        function = getattr(self, name)
        if len(self.network.sizes) > 1:

            def another():
                present = getattr(self, name)
                make(force=True)
                made = getattr(self, name)
                setattr(self, name, present)
                return made

            function = backend.of_each_shape(function, another)
        return self._live.watched(function)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        self._check_compiled()
        with self._average_follows():
            return super().train_on_batch(*self._batch(x, y, sample_weight), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        self._settle_average()
        with self._live.running():
            return super().test_on_batch(*self._batch(x, y, sample_weight), **kwargs)

    def _batch(self, x, y, sample_weight):
        return data.read_batch((x, y, sample_weight), self.network)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The loss of the averaged weights, as `keras.Model.evaluate`.

        Times and noise are the same at every call, so that two losses can be compared.

        Args:
            x, y, sample_weight: as for `fit`.
            batch_size, verbose, **kwargs: as for `keras.Model.evaluate`.

        Raises:
            ValueError: for images or labels that do not fit the network.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # as from within fit, which checked it
            x, y, sample_weight = self._taken(x, y, sample_weight, batch_size)
            x, y, sample_weight = shares.still(x, y, sample_weight, batch_size)
            x = self._open(x)
            self._settle_average()
        fresh = keras.random.SeedGenerator(seed=0)
        self.evaluation_seed.state.assign(ops.convert_to_numpy(fresh.state))
        with self._live.running():
            return super().evaluate(x, y, batch_size, verbose, sample_weight, **kwargs)

    def summary(self, line_length=None, positions=None, print_fn=None, **kwargs):
        """Print the network's layers, their shapes and parameters, and what is kept beside it.

        Args:
            line_length, positions, print_fn, **kwargs: as for `keras.Model.summary`.
        """
        self.network.summary(line_length, positions, print_fn, **kwargs)
        held = {"codec": self.codec_layers, "objective": self.process.objective.layers}
        beside = {name: [w for x in layers for w in x.weights] for name, layers in held.items()}
        if self.average is not None:
            beside["average of the weights"] = self.average.weights
        if self.compiled and self.optimizer.built:
            beside["optimizer"] = self.optimizer.variables
        for name, variables in beside.items():
            if variables:
                count = sum(math.prod(variable.shape) for variable in variables)
                (print_fn or print)(f" Beside it, {name}: {count:,}")

    def call(self, *_, **__):
        raise NotImplementedError(checks.NO_OUTPUT)

    def predict(self, *_, **__):
        raise NotImplementedError(checks.NO_OUTPUT)

    def predict_on_batch(self, *_, **__):
        raise NotImplementedError(checks.NO_OUTPUT)

    def train_step(self, *arguments):
        return backend.keras_step(self, functools.partial(step.train_step, self), *arguments)

    def test_step(self, *arguments):
        return backend.keras_step(self, functools.partial(step.test_step, self), *arguments)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The objective on a batch, a float32 scalar; NaN if a label is out of range.

        Args:
            x, y, sample_weight: a batch as `fit` takes it. In a step of training x is what
                `training.step.prepared` has made of one, and the others are None.
            y_pred: nothing; Keras has it.
            training: whether of the network, which is told nothing of some samples, or of the
                average of its weights.
        """
        return step.loss(self, x, y, sample_weight, training)
