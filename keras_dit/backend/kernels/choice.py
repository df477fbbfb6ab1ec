"""Which form of an operation runs: the fused one, unless the plain one is asked for or needed."""

import contextlib
import contextvars
import functools
from concurrent import futures

import keras
from keras import ops

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf

_asked_for_plain = contextvars.ContextVar("plain_kernels", default=False)
# (fused form, dtype): the error with which this processor refuses it, or None
REFUSED: dict[tuple, Exception | None] = {}


@contextlib.contextmanager
def plain_kernels():
    """Within it, what is run or traced takes the plain forms, which have forward derivatives."""
    token = _asked_for_plain.set(True)
    try:
        yield
    finally:
        _asked_for_plain.reset(token)


def plain_asked_for() -> bool:
    """Whether this runs within `plain_kernels`."""
    return _asked_for_plain.get()


def choose(plain, fused, *sample):
    """An operation with two forms, under the name and the description of the plain one.

    A form may be refused by a processor, for one dtype and only when it is run: oneDNN has no
    bfloat16 for some. So the fused form is tried once for each dtype, with its gradient.

    Args:
        plain, fused: functions of the same arguments, the first of them a tensor.
        *sample: what to try it with: shapes of tensors, and other arguments as they are.
    """

    @functools.wraps(plain)
    def operation(x, *rest, **options):
        if plain_asked_for() or _is_refused(fused, sample, x.dtype):
            return plain(x, *rest, **options)
        return fused(x, *rest, **options)

    return operation


def _is_refused(fused, sample, dtype):
    if BACKEND == "torch" and torch.compiler.is_compiling():
        return False
    key = fused, dtype
    if key not in REFUSED:
        REFUSED[key] = _error_of(fused, sample, dtype) if _may_be_refused(dtype) else None
    return REFUSED[key] is not None


def _may_be_refused(dtype):
    # XLA runs float32 everywhere, and would take a second to compile what is tried.
    return BACKEND == "torch" or keras.backend.standardize_dtype(dtype) != "float32"


def _error_of(fused, sample, dtype):
    """Try it in another thread, so that nothing of what is being traced or recorded is around."""
    dtype = keras.backend.standardize_dtype(dtype)

    def attempt():
        _with_gradient(fused, [ops.ones(x, dtype) if isinstance(x, tuple) else x for x in sample])

    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(attempt).exception()


def _with_gradient(function, arguments):
    tensors = [i for i, part in enumerate(arguments) if ops.is_tensor(part)]

    def total(*moved):
        for i, tensor in zip(tensors, moved, strict=True):
            arguments[i] = tensor
        return ops.sum(ops.cast(function(*arguments), "float32"))

    values = [arguments[i] for i in tensors]
    if BACKEND == "jax":
        jax.jit(jax.grad(total, argnums=tuple(range(len(values)))))(*values)
    elif BACKEND == "torch":
        with torch.no_grad():
            total(*values)
        total(*(value.requires_grad_() for value in values)).backward()
    else:
        tf.function(lambda *values: tf.gradients(total(*values), values), autograph=False)(*values)
