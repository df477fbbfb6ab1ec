"""A plain step of Adam or AdamW, in fewer operations than Keras has for it.

Reference:
    Kingma & Ba, Adam: A Method for Stochastic Optimization (2015); Loshchilov & Hutter, Decoupled
    Weight Decay Regularization (2019).
"""

import functools
from typing import Any

import keras
from keras import ops

from keras_dit.backend.selection import BACKEND

if BACKEND == "torch":
    import torch
elif BACKEND == "tensorflow":
    import tensorflow as tf

__all__ = ["apply", "is_plain"]


# Private names of Keras's Adam and of torch: without one of them the optimizer makes its own step.
ADAM_NAMES = (
    "_clip_gradients",
    "_get_variable_index",
    "_momentums",
    "_use_weight_decay",
    "_velocities",
)
TORCH_ADAM = "_fused_adamw_"
DEVICES = "cpu", "cuda"  # for which torch has it


@functools.cache
def _adams():
    """The classes of which Keras's Adam and AdamW are, which on torch are others than their names.

    A subclass may do more, so that only these are made in one pass.
    """
    named = keras.optimizers.Adam, keras.optimizers.AdamW
    return tuple(type(one()) for one in named) if BACKEND == "torch" else named


def is_plain(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> bool:
    """Whether a step is one that `apply` makes."""
    if type(optimizer) not in _adams() or optimizer.amsgrad or optimizer.use_ema:
        return False
    if optimizer.gradient_accumulation_steps or optimizer.loss_scale_factor:
        return False
    if not all(hasattr(optimizer, n) for n in ADAM_NAMES):
        return False
    if BACKEND == "torch" and not _can_be_fused(variables):
        return False
    return all(gradient is not None for gradient in gradients) and not any(
        v.dtype != "float32" or v.constraint or v.overwrite_with_gradient for v in variables
    )


def _can_be_fused(variables):
    if torch.compiler.is_compiling():  # which makes one pass of it by itself
        return False
    return hasattr(torch, TORCH_ADAM) and all(v.value.device.type in DEVICES for v in variables)


def apply(
    optimizer: keras.optimizers.Optimizer, gradients: list, variables: list, where: Any = None
) -> None:
    """`optimizer.apply`, for one that `is_plain`.

    Args:
        where: on torch a scalar tensor: whether to; None: it is done.
    """
    step = _adam_step_tensorflow
    if BACKEND == "torch":
        step = functools.partial(_adam_step_torch, where=where)
    if not optimizer.built:
        optimizer.build(variables)
    pairs = list(zip(optimizer._clip_gradients(gradients), variables, strict=True))
    decay = optimizer.weight_decay or 0.0
    for decayed in (True, False):
        chosen = [pair for pair in pairs if optimizer._use_weight_decay(pair[1]) == decayed]
        if chosen:
            step(optimizer, chosen, decay if decayed else 0.0)
    made = 1 if where is None else ops.cast(where, optimizer.iterations.dtype)
    optimizer.iterations.assign_add(made)


def _adam_step_tensorflow(optimizer, pairs, weight_decay):
    """Keras's own numbers. What is the same for all variables is written down once, and nothing of
    `tf.distribute` is asked for each: of DiT-S/2 a step is traced two seconds sooner.
    """
    step = tf.cast(optimizer.iterations.value + 1, "float32")
    rate = tf.cast(tf.convert_to_tensor(optimizer.learning_rate), "float32")
    first, second = (tf.pow(beta, step) for beta in (optimizer.beta_1, optimizer.beta_2))
    alpha = rate * tf.sqrt(1.0 - second) / (1.0 - first)
    for gradient, variable in pairs:
        index = optimizer._get_variable_index(variable)
        momentum, velocity = optimizer._momentums[index].value, optimizer._velocities[index].value
        weight = variable.value.read_value()
        if weight_decay:
            weight = weight - weight * weight_decay * rate
        m, v = momentum.read_value(), velocity.read_value()
        m = m + (gradient - m) * (1 - optimizer.beta_1)
        v = v + (tf.square(gradient) - v) * (1 - optimizer.beta_2)
        momentum.assign(m, read_value=False)
        velocity.assign(v, read_value=False)
        moved = weight - m * alpha / (tf.sqrt(v) + optimizer.epsilon)
        variable.value.assign(moved, read_value=False)


LATE = 2.0**30  # a step at which nothing is corrected any more


def _adam_step_torch(optimizer, pairs, weight_decay, where):
    """One pass over memory, of numbers that are where the variables are: the host reads none.

    Keras adds epsilon before the second moment is corrected, torch after it. So torch is told a
    step so late that it corrects nothing, and a rate that corrects both. Weights then have to
    decay beside it, in a pass of their own.
    """
    indices = [optimizer._get_variable_index(variable) for _, variable in pairs]
    weights = [variable.value for _, variable in pairs]
    step = optimizer.iterations.value.double() + 1.0
    rate = ops.convert_to_tensor(optimizer.learning_rate)
    first, second = (1.0 - torch.pow(b, step) for b in (optimizer.beta_1, optimizer.beta_2))
    if weight_decay:
        kept = 1.0 - rate * weight_decay
        torch._foreach_mul_(weights, kept if where is None else torch.where(where, kept, 1.0))
    getattr(torch, TORCH_ADAM)(
        weights,
        [gradient.contiguous() for gradient, _ in pairs],  # of a record it may not be
        [optimizer._momentums[i].value for i in indices],
        [optimizer._velocities[i].value for i in indices],
        [],
        [torch.full((), LATE, device=rate.device)] * len(pairs),
        lr=(rate * torch.sqrt(second) / first).float(),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=0.0,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
        found_inf=None if where is None else 1.0 - where.float(),
    )
