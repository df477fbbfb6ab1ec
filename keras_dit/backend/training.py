"""What a step of training is made of: gradients, a branch, the optimizer, the average."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit.backend import adam
from keras_dit.backend.host import device, sent, without_waits
from keras_dit.backend.kernels.choice import plain_asked_for
from keras_dit.backend.recording import GradientPrograms
from keras_dit.backend.replicas import joined, replicas, with_axis
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf

__all__ = [
    "BuiltModel",
    "apply_gradients",
    "branch",
    "build_optimizer",
    "fingerprints",
    "gradients",
    "keras_step",
    "move_averages",
    "norm",
    "remat",
    "without_gradient",
]


class BuiltModel(keras.Model):
    """A Keras model that is built when it is made.

    Under a `tf.distribute` strategy Keras reads a batch to build a model by, and begins the data
    anew: of a generator that batch, and what was read ahead of it, would be lost. In one of several
    workers it fails to (github.com/keras-team/keras/issues/20585).
    """

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        joined()  # while the scope lasts in which it is made

    # Private name of Keras. If it goes, so does the loss, or tests/test_devices.py finds it again.
    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        super()._maybe_symbolic_build(data_batch=data_batch)


def keras_step(model: keras.Model, step: Callable[[Any], dict], *arguments) -> Any:
    """Run a step in the form that each of Keras's trainers asks for.

    Args:
        model: the Keras model that is trained or tested.
        step: data -> logs, in plain `keras.ops`; it reads and assigns to variables.
        *arguments: of the trainer's method: (state, data) on JAX, else (data,).

    Returns:
        What the trainer's method returns: the logs, on JAX with the new state.

    Reference:
        Keras guides: Customizing what happens in `fit()`, one for each backend.
    """
    if BACKEND == "torch" and torch.compiler.is_compiling():
        return step(*arguments)
    if BACKEND == "torch":
        with without_waits():
            return step(*sent(arguments, device()))
    if BACKEND == "tensorflow":
        # Not before the batch is there: at the end of data whose length it does not know Keras asks
        # for one more step, and random numbers would move on though none comes.
        with tf.control_dependencies(list(filter(tf.is_tensor, tree.flatten(arguments)))):
            return with_axis(step(*arguments))
    state, data = arguments
    groups = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
    if len(state) == 4:  # in training
        groups.insert(2, model.optimizer.variables)
    held = [pair for group in zip(groups, state, strict=True) for pair in zip(*group)]
    with keras.StatelessScope(held) as scope:
        logs = step(data)
    return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)


def gradients(
    objective: Callable[..., tuple],
    variables: Sequence[keras.Variable],
    moved: Sequence,
    given: tuple = (),
    programs: GradientPrograms | None = None,
) -> tuple[list, Any]:
    """The gradients of a scalar; inside a `keras_step`.

    Args:
        objective: *given -> (scalar, what is given back beside the gradients).
        variables: by whose values the scalar is differentiated.
        moved: all variables that `objective` reads or assigns to, those of `variables` too.
        given: trees of tensors, all that is another at each step but for the variables.
        programs: where torch keeps the gradient of a GPU, from step to step; None: nowhere.

    Returns:
        For each variable its gradient, dense, or None; and the second of what `objective` returned.
    """
    if BACKEND == "jax":
        return _gradients_jax(lambda: objective(*given), variables, moved)
    if BACKEND == "torch":
        if programs and (program := programs.find(objective, given, variables, moved)):
            return program()
        for variable in variables:
            variable.value.grad = None
        scalar, other = objective(*given)
        if variables:
            scalar.backward()
        return [v.value.grad for v in variables], other.detach()
    with tf.GradientTape() as tape:
        scalar, other = objective(*given)
    found = tape.gradient(scalar, [v.value for v in variables])
    # Those of a table are sparse; dense they are like all others.
    return [None if g is None else tf.convert_to_tensor(g) for g in found], other


def without_gradient(function: Callable, *arguments: Any) -> Any:
    """What a function gives, a tree of tensors, through which no gradient goes back.

    On torch nothing is kept for one.
    """
    if BACKEND == "torch":
        with torch.no_grad():
            return function(*arguments)
    return tree.map_structure(ops.stop_gradient, function(*arguments))


def _gradients_jax(objective, variables, moved):
    held = [(v, v.value) for v in moved]

    def pure(values):
        with keras.StatelessScope([*held, *zip(variables, values, strict=True)]) as scope:
            scalar, other = objective()
        return scalar, (other, [scope.get_current_value(v) for v in moved])

    found, (other, values) = jax.grad(pure, has_aux=True)([v.value for v in variables])
    kept = {id(v) for v in variables}
    for variable, value in zip(moved, values):
        if id(variable) not in kept:
            variable.assign(value)
    return found, other


def build_optimizer(model: keras.Model) -> None:
    """Make the variables of a compiled model's optimizer, before its step is traced.

    TensorFlow traces twice what makes variables while it is traced.
    """
    if BACKEND == "tensorflow" and not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def norm(gradients: Sequence) -> Any:
    """The norm of all gradients together, a float32 scalar; None is none. One pass over each."""
    given = [ops.cast(gradient, "float32") for gradient in gradients if gradient is not None]
    if BACKEND == "tensorflow":  # which writes the squares to memory, but for this
        squares = [2.0 * tf.nn.l2_loss(gradient) for gradient in given]
    else:
        squares = [ops.sum(ops.square(gradient)) for gradient in given]
    return ops.sqrt(ops.sum(ops.stack(squares))) if squares else ops.zeros(())


def applies_where(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> bool:
    """Whether `apply_gradients` can leave a step out without the host's knowing, which is torch's.

    A `branch` of torch waits for the device to know where to go on; another backend's does not.
    """
    return BACKEND == "torch" and bool(variables) and adam.is_plain(optimizer, gradients, variables)


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: list, variables: list, where: Any = None
) -> None:
    """Let the optimizer move the variables; inside a `keras_step`.

    torch makes a plain step of Adam or AdamW in one pass over memory, not fifteen, as XLA does by
    itself. TensorFlow's is written down with fewer operations than Keras has for it.

    Args:
        where: a scalar: whether to; None: it is done. To be given where the optimizer
            `applies_where`.
    """
    if not variables:
        return
    if BACKEND == "jax":
        old = [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
        moved = zip((variables, optimizer.variables), optimizer.stateless_apply(*old))
        for targets, values in moved:
            for target, value in zip(targets, values):
                target.assign(value)
        return
    plain = where is not None or adam.is_plain(optimizer, gradients, variables)
    if BACKEND == "torch":
        with torch.no_grad():
            if plain:
                adam.apply(optimizer, gradients, variables, where)
            else:
                optimizer.apply(gradients, variables)
        return
    if plain:  # each replica makes the same of the same, without an exchange
        adam.apply(optimizer, gradients, variables)
        return
    if replicas() > 1:
        # They are the same on each, and Keras adds up what each has clipped: one gives them.
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        gradients = [None if g is None else g * tf.cast(first, g.dtype) for g in gradients]
    optimizer.apply(gradients, variables)


def branch(condition: Any, update: Callable[[], None], variables: Sequence) -> None:
    """Run `update()`, which reads and assigns to the variables, where a scalar condition holds.

    It is a branch that gives the variables' values whether they have moved or not: so XLA moves
    them in place. To choose between old and new numbers instead, or on TensorFlow not to give the
    values, has it copy most of them, which took 60 ms and 40 ms of a step of DiT-S/4.
    """
    if BACKEND == "torch":
        if condition:
            update()
        return
    if BACKEND == "tensorflow" and replicas() > 1:
        _branch_of_replicas(condition, update)
        return
    if BACKEND == "tensorflow":

        def values():
            return [tf.convert_to_tensor(v.value) for v in variables]

        def moved():
            update()
            return values()

        tf.cond(condition, moved, values)
        return
    old = [v.value for v in variables]

    def updated():
        with keras.StatelessScope(list(zip(variables, old))) as scope:
            update()
        return [scope.get_current_value(v) for v in variables]

    for variable, value in zip(variables, jax.lax.cond(condition, updated, lambda: old)):
        variable.assign(value)


def _branch_of_replicas(condition, update):
    """The branch is taken once for all replicas: in one of a replica they could not meet."""

    def branched(strategy, conditions, updates):
        def updated():
            strategy.extended.call_for_each_replica(lambda one: one(), args=(updates,))
            return tf.constant(True)

        first = strategy.experimental_local_results(conditions)[0]  # the same on each
        return tf.cond(first, updated, lambda: tf.constant(False))

    tf.distribute.get_replica_context().merge_call(branched, args=(condition, update))


def move_averages(averages: Sequence, weights: Sequence, rate: Any) -> None:
    """a ← a + rate (w − a) for each pair of variables, outside any gradient.

    Args:
        averages: variables, float32.
        weights: as many variables of any floating dtype.
        rate: float32 scalar tensor.
    """
    if BACKEND == "torch":
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=True):
                average.value.lerp_(weight.value.to(average.value.dtype), rate)
        return
    for average, weight in zip(averages, weights, strict=True):
        new = weight.value
        if BACKEND == "jax":  # else XLA takes a bfloat16 weight before it is rounded
            new = jax.lax.optimization_barrier(new)
        new = ops.stop_gradient(ops.cast(new, "float32"))
        average.assign(average + rate * (new - average))


def fingerprints(variables: Sequence[keras.Variable]) -> list[int]:
    """A number for each variable that changes when its values do; not inside a compiled function.

    It is the sum of the values' bits as integers, the same on every backend and in every order.
    """
    if BACKEND == "torch":
        sums = [_bits_torch(v.value.detach()).sum(dtype=torch.int32) for v in variables]
    elif BACKEND == "jax":
        sums = [_sum_of_bits_jax(v.value) for v in variables]
    else:
        sums = [_sum_of_bits_tf(v.value) for v in variables]
    return [int(ops.convert_to_numpy(total)) % 2**32 for total in sums]


def _bits_torch(value):
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.view(integers[value.element_size()]) if value.is_floating_point() else value


def _sum_of_bits_jax(value):
    integers = f"int{8 * value.dtype.itemsize}"
    floating = jax.numpy.issubdtype(value.dtype, jax.numpy.floating)
    if jax.default_backend() == "cpu":  # where numpy looks at the same memory
        bits = np.asarray(value).view(integers) if floating else np.asarray(value)
        return bits.sum(dtype="int32")
    bits = jax.lax.bitcast_convert_type(value, integers) if floating else value
    return bits.astype("int32").sum()


def _sum_of_bits_tf(value):
    value = tf.convert_to_tensor(value)
    integers, floating = f"int{8 * value.dtype.size}", value.dtype.is_floating
    # numpy looks at the same memory in a third of the time; it does not know bfloat16.
    if "CPU" in value.device and value.dtype != tf.bfloat16:
        bits = np.asarray(memoryview(value))
        return (bits.view(integers) if floating else bits).sum(dtype="int32")
    bits = tf.bitcast(value, integers) if floating else value
    return tf.reduce_sum(tf.cast(bits, "int32"))


def remat(function: Callable) -> Callable:
    """`keras.remat`, which on JAX's CPU is one that saves memory.

    Args:
        function: of positional tensors, to a tensor. Variables may be read in it.

    Returns:
        The same function, which keeps its arguments for the gradient and computes the rest again.
        Where plain kernels are asked for it keeps all: what computes again has no derivative in
        forward mode, except on JAX.

    Reference:
        Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
    """
    if plain_asked_for():
        return jax.checkpoint(function) if BACKEND == "jax" else function
    if BACKEND == "jax" and jax.default_backend() == "cpu":
        return _remat_jax_cpu(function)
    return keras.remat(function)


def _remat_jax_cpu(function):
    """The arguments wait for the upstream gradient, by a sum with zero times it.

    `jax.checkpoint` has them wait behind a barrier. XLA takes barriers away on a CPU, and then
    computes every block again before the first gradient: memory is as without it. TensorFlow's
    `recompute_grad` has the same sum.
    """

    def run(*arguments):
        # What is closed over, the variables' values, has to be an argument to have a gradient.
        pure, closed_over = jax.closure_convert(function, *arguments)

        def plain(arguments, closed_over):
            return pure(*arguments, *closed_over)

        def forward(arguments, closed_over):
            return plain(arguments, closed_over), (arguments, closed_over)

        def backward(inputs, upstream):
            arguments, closed_over = inputs
            zero = 0.0 * jax.numpy.sum(upstream, dtype="float32")
            arguments = tuple(x + zero.astype(x.dtype) for x in arguments)
            return jax.vjp(plain, arguments, closed_over)[1](upstream)

        kept = jax.custom_vjp(plain)
        kept.defvjp(forward, backward)
        return kept(arguments, tuple(closed_over))

    return run
