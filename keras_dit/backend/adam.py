"""A plain step of Adam or AdamW, in fewer operations than Keras has for it.

Reference:
    Kingma & Ba, Adam: A Method for Stochastic Optimization (2015); Loshchilov & Hutter, Decoupled
    Weight Decay Regularization (2019).
"""

import functools
import math

import keras

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


@functools.cache
def _adams():
    """The classes of which Keras's Adam and AdamW are, which on torch are others than their names.

    A subclass may do more, so that only these are made in one pass.
    """
    named = keras.optimizers.Adam, keras.optimizers.AdamW
    return tuple(type(one()) for one in named) if BACKEND == "torch" else named


def is_plain(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> bool:
    """Whether a step is one that `apply` makes; on torch those on a CPU alone."""
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
    return hasattr(torch, TORCH_ADAM) and not any(v.value.is_cuda for v in variables)


def apply(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> None:
    """`optimizer.apply`, for one that `is_plain`."""
    step = _fused_adam_step if BACKEND == "torch" else _adam_step_tensorflow
    if not optimizer.built:
        optimizer.build(variables)
    pairs = list(zip(optimizer._clip_gradients(gradients), variables, strict=True))
    decay = optimizer.weight_decay or 0.0
    for decayed in (True, False):
        chosen = [pair for pair in pairs if optimizer._use_weight_decay(pair[1]) == decayed]
        if chosen:
            step(optimizer, chosen, decay if decayed else 0.0)
    optimizer.iterations.assign_add(1)


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


def _fused_adam_step(optimizer, pairs, weight_decay):
    indices = [optimizer._get_variable_index(variable) for _, variable in pairs]
    step = float(optimizer.iterations.value) + 1.0
    getattr(torch, TORCH_ADAM)(
        [variable.value for _, variable in pairs],
        [gradient for gradient, _ in pairs],
        [optimizer._momentums[i].value for i in indices],
        [optimizer._velocities[i].value for i in indices],
        [],
        [torch.tensor(step)] * len(pairs),
        lr=float(optimizer.learning_rate),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=weight_decay,
        # Keras adds epsilon before the second moment is corrected, torch after it.
        eps=optimizer.epsilon / math.sqrt(1.0 - optimizer.beta_2**step),
        amsgrad=False,
        maximize=False,
    )
