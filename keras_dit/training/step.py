"""A step of training, from a batch to moved weights.

    x_t = α(t) x0 + σ(t) ε,   t and ε drawn;   L = mean of w · loss(network(x_t, t, y), …)
    weights ← optimizer(weights, ∇L),   average ← average + rate (weights − average)

Reference:
    Ho et al., Denoising Diffusion Probabilistic Models (2020), algorithm 1.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_dit import backend
from keras_dit.objectives import Batch
from keras_dit.sampling.denoiser import Denoiser, with_settings
from keras_dit.schedules import Rates

__all__ = ["draw", "float32", "loss", "prepared", "scaling_loss", "test_step", "train_step"]


def train_step(model: keras.Model, data: Any) -> dict:
    """One step: the logs, with the model's variables moved.

    It is not applied where the loss or a gradient is not finite: weights, average and optimizer
    stay as they were, and the step is counted in `model.skipped`.

    Args:
        model: a compiled `Diffusion`.
        data: a batch, (x, y, sample_weight) or the first one or two of them.
    """
    optimizer, variables = model.optimizer, model.trainable_variables
    everything = [*model.variables, *optimizer.variables]
    given = prepared(model, *keras.utils.unpack_x_y_sample_weight(data))

    def objective(given):
        mean = model.compute_loss(given, training=True)
        return optimizer.scale_loss(mean), mean

    gradients, mean = backend.gradients(objective, variables, everything, (given,), model.programs)
    *gradients, mean = backend.mean([*gradients, mean])  # of all devices' parts of the batch
    norm = backend.norm(gradients) / optimizer.scale_loss(ops.ones((), "float32"))
    finite = ops.isfinite(mean + norm)  # no infinity or NaN is lost in a norm
    applied = finite
    if _scales_loss(optimizer):
        # It leaves out a gradient that is not finite by itself, but has to see it to lower its
        # scale.
        applied = ops.isfinite(mean)

    def learn(where=None):
        if model.average is None:
            backend.apply_gradients(optimizer, gradients, variables, where)
        elif _moves_always(optimizer):
            backend.apply_gradients(optimizer, gradients, variables, where)
            model.average.update(where)
        else:
            before = ops.add(optimizer.iterations, 0)  # a copy
            backend.apply_gradients(optimizer, gradients, variables)
            moved = ops.not_equal(optimizer.iterations, before)
            backend.branch(moved, model.average.update, everything)

    if backend.applies_where(optimizer, gradients, variables):
        learn(applied)
    else:
        backend.branch(applied, learn, everything)
    model.skipped.assign(model.skipped + ops.cast(ops.logical_not(finite), "int32"))
    # A skipped step is in no mean.
    logged = _track(model, ops.where(finite, mean, 0.0), ops.where(finite, _count(data), 0))
    skipped = ops.convert_to_tensor(model.skipped)
    return {"loss": logged, "gradient_norm": norm, "skipped": skipped}


def test_step(model: keras.Model, data: Any) -> dict:
    """The logs of a batch in evaluation."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    mean = model.compute_loss(x, y, sample_weight=sample_weight, training=False)
    (mean,) = backend.mean([mean])
    return {"loss": _track(model, mean, _count(data))}


class Prepared(NamedTuple):
    """A batch with all that is drawn for it: its loss depends on the network's weights alone."""

    batch: Batch
    rates: Rates
    weight: Any  # (B,), or None


def prepared(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, training: bool = True
) -> Prepared:
    """What `loss` takes, of images and conditions as `fit` takes them.

    In training the network is told nothing of some samples, drawn once, so that all evaluations of
    a step are told the same; else times and noise are of the evaluation's own seed.

    Args:
        x: images (B, H, W, C) as the codec takes them.
        y: what the network is told of them, a nest of tensors (B, ...), or None.
        sample_weight: (B,), or None.
    """
    seed = model.training_seed if training else model.evaluation_seed
    x0 = model.codec.encode(x, seed)  # (B, H, W, C)
    count = ops.shape(x0)[0]
    t, noise = draw(model.objective.sample_times, ops.shape(x0), seed)
    beside = backend.drawn(lambda n: model.objective.sample_beside(n, seed), count)
    rates = model.schedule(model.schedule.snap(t))
    # A network without conditions may have a y that stands beside sample weights.
    y = model.network.admit(y) if y is not None and model.network.told else None
    null = _null(model.network, y, count)
    if training and y is not None:
        y = model.network.drop(y, model.network.draw_dropped(count))
    if sample_weight is not None:
        sample_weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
    step = _steps(model) if training else None
    return Prepared(Batch(x0, noise, y, step=step, null=null, beside=beside), rates, sample_weight)


def loss(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None, training: bool = True
) -> Any:
    """The objective on a batch, a float32 scalar; NaN if a label is out of range.

    In training it is that of the network; else that of the averaged weights.

    Args:
        x, y, sample_weight: a batch, or as x what `prepared` has made of one.
    """
    given = x if isinstance(x, Prepared) else prepared(model, x, y, sample_weight, training)
    if training:
        evaluate = _training_network(model)
    else:
        values = None if model.average is None else model.average.values
        evaluate = Denoiser(model.network, model.schedule, model.prediction, values).output
    y = given.batch.condition
    each = model.objective.loss(
        lambda x_t, rates, condition=y, **more: evaluate(x_t, rates, condition, **more),
        given.batch,
        given.rates,
        model.process,
    )  # (B,)
    return ops.mean(each if given.weight is None else each * given.weight)


def _steps(model):
    """How many steps the optimizer has made, an int32 scalar; 0 where there is none yet."""
    optimizer = getattr(model, "optimizer", None)
    made = 0 if optimizer is None else optimizer.iterations
    return ops.cast(ops.convert_to_tensor(made), "int32")


def _training_network(model):
    """The network as an objective evaluates it in training; what is dropped has been."""

    def evaluate(x_t, rates, condition, settings=None, **asked):
        x = model.prediction.network_input(x_t, rates)
        told = with_settings(model.network, condition, rates, ops.shape(x_t)[0], settings)
        t = model.schedule.timestep(rates.t)
        return model.network(x, t, told, training=True, dropped={}, **asked)

    return evaluate


def _null(network, y, count):
    """The condition "nothing said" for so many samples; None where there is none."""
    if y is None:
        return None
    return tree.map_structure(
        lambda one: ops.broadcast_to(one, (count, *one.shape[1:])), network.null(1)
    )


def draw(times: Callable, shape: tuple, seed: keras.random.SeedGenerator) -> tuple:
    """The times and the noise of a batch.

    They are drawn for the whole batch, of which this may be the part of one device of several: so
    that the step does not depend on the number of devices.

    Args:
        times: (count, seed) -> float32 (count,), in [0, 1].
        shape: (B, ...) of the samples here.
        seed: the random numbers of all that is drawn; it moves on.

    Returns:
        t (B,) and noise (B, ...), float32.
    """
    count, *rest = shape

    def noise(n):  # in a row: XLA takes seconds to compile random numbers of several short axes
        row = keras.random.normal((n * math.prod(rest),), seed=seed, dtype="float32")
        return ops.reshape(row, (n, *rest))

    return backend.drawn(lambda n: times(n, seed), count), backend.drawn(noise, count)


def scaling_loss(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """An optimizer that scales the loss, so that gradients in float16 do not vanish."""
    if _scales_loss(optimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """While this runs `keras.config.floatx()` is float32: times and losses are, whatever it is."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)


def _count(data):
    return backend.whole(ops.shape(keras.utils.unpack_x_y_sample_weight(data)[0])[0])


def _track(model, value, weight):
    """The mean loss of the epoch so far, with this batch in it; NaN before there is any."""
    tracker = next(metric for metric in model.metrics if metric.name == "loss")
    tracker.update_state(value, sample_weight=weight)
    return ops.where(tracker.count > 0, tracker.result(), float("nan"))


def _scales_loss(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _moves_always(optimizer):
    """Whether each step that is applied moves the weights."""
    return not (_scales_loss(optimizer) or optimizer.gradient_accumulation_steps)
