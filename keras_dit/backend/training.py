"""What a step of training is made of."""

import functools
import math

import keras
from keras import ops

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


def train_step(model, *arguments):
    """One step of `fit`, in the form that each of Keras's trainers asks for.

    Args:
        model: a Keras model with two methods of plain `keras.ops`: `training_loss(data)`, a scalar
            tensor, and `learn(loss, gradients, data)`, which assigns to variables and returns
            the logs.
        *arguments: of the trainer's `train_step`: (state, data) on JAX, else (data,).

    Returns:
        What the trainer's `train_step` returns.

    Reference:
        Keras guides: Customizing what happens in `fit()`, one for each backend.
    """
    if BACKEND == "jax":
        return _train_step_jax(model, *arguments)
    (data,) = arguments
    variables = model.trainable_variables
    if BACKEND == "torch":
        model.zero_grad()
        loss = model.training_loss(data)
        model.optimizer.scale_loss(loss).backward()
        with torch.no_grad():
            return model.learn(loss.detach(), [v.value.grad for v in variables], data)
    with tf.GradientTape() as tape:
        loss = model.training_loss(data)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, [v.value for v in variables])
    # Those of a table are sparse; dense they are like all others.
    gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    return model.learn(loss, gradients, data)


def _train_step_jax(model, state, data):
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    variables = [v for group in groups for v in group]
    rest = [value for values in state[1:] for value in values]

    def objective(trainable):
        with keras.StatelessScope(list(zip(variables, [*trainable, *rest]))) as scope:
            loss = model.training_loss(data)
            scaled = model.optimizer.scale_loss(loss)
        return scaled, (loss, [scope.get_current_value(v) for v in variables])

    gradients, (loss, values) = jax.grad(objective, has_aux=True)(state[0])
    with keras.StatelessScope(list(zip(variables, values))) as scope:
        logs = model.learn(loss, gradients, data)
    return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)


def apply_gradients(optimizer, gradients, variables):
    """Let the optimizer move the variables; inside `learn` of a `train_step`."""
    if BACKEND != "jax":
        optimizer.apply(gradients, variables)
        return
    old = [v.value for v in optimizer.variables], gradients, [v.value for v in variables]
    moved = zip((variables, optimizer.variables), optimizer.stateless_apply(*old))
    for targets, values in moved:
        for target, value in zip(targets, values):
            target.assign(value)


def assign_if(condition, update, variables):
    """Run `update()`, which reads and assigns to the variables, where a scalar condition holds.

    It is a branch that gives the variables' values whether they have moved or not: so XLA moves
    them in place. To choose between old and new numbers instead, or on TensorFlow not to give the
    values, has it copy most of them, which took 60 ms and 40 ms of a step of DiT-S/4.
    """
    if BACKEND == "torch":
        if condition:
            update()
        return
    if BACKEND == "tensorflow":

        def values():
            return [tf.convert_to_tensor(v.value) for v in variables]

        tf.cond(condition, lambda: (update(), values())[1], values)
        return
    old = [v.value for v in variables]

    def updated():
        with keras.StatelessScope(list(zip(variables, old))) as scope:
            update()
        return [scope.get_current_value(v) for v in variables]

    for variable, value in zip(variables, jax.lax.cond(condition, updated, lambda: old)):
        variable.assign(value)


def move_averages(averages, weights, rate):
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


def fuse_optimizer(optimizer):
    """Let torch make a step of Adam or AdamW on a CPU in one pass over memory, not fifteen.

    XLA does so by itself. Any other optimizer stays as it is. The numbers stay too.
    """
    if BACKEND != "torch" or getattr(optimizer, "amsgrad", True):
        return
    step = getattr(type(optimizer), "_parallel_update_step", None)
    if step is type(keras.optimizers.Adam())._parallel_update_step:
        optimizer._parallel_update_step = functools.partial(
            _fused_adam, optimizer, optimizer._parallel_update_step, optimizer._apply_weight_decay
        )
        optimizer._apply_weight_decay = _left_to_the_step


def _left_to_the_step(variables):
    return None


def _fused_adam(optimizer, plain_step, plain_decay, gradients, variables, learning_rate):
    takes = all(not v.value.is_cuda and v.dtype == "float32" for v in variables)
    if torch.compiler.is_compiling() or not takes:
        plain_decay(variables)
        return plain_step(gradients, variables, learning_rate)
    decay = optimizer.weight_decay or 0.0
    pairs = list(zip(gradients, variables, strict=True))
    for decayed in (True, False):
        chosen = [pair for pair in pairs if optimizer._use_weight_decay(pair[1]) == decayed]
        if chosen:
            _fused_adam_step(optimizer, chosen, float(learning_rate), decay if decayed else 0.0)
    return None


def _fused_adam_step(optimizer, pairs, learning_rate, weight_decay):
    indices = [optimizer._get_variable_index(variable) for _, variable in pairs]
    step = float(optimizer.iterations.value) + 1.0
    torch._fused_adamw_(
        [variable.value for _, variable in pairs],
        [gradient for gradient, _ in pairs],
        [optimizer._momentums[i].value for i in indices],
        [optimizer._velocities[i].value for i in indices],
        [],
        [torch.tensor(step)] * len(pairs),
        lr=learning_rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=weight_decay,
        # Keras adds epsilon before the second moment is corrected, torch after it.
        eps=optimizer.epsilon / math.sqrt(1.0 - optimizer.beta_2**step),
        amsgrad=False,
        maximize=False,
    )


def remat(function):
    """`keras.remat`, which on JAX's CPU is one that saves memory.

    Args:
        function: of positional tensors, to a tensor. Variables may be read in it.

    Returns:
        The same function, which keeps its arguments for the gradient and computes the rest again.

    Reference:
        Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
    """
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
