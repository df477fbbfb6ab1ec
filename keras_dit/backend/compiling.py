"""How a function is compiled."""

import os
import pathlib

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


def _keep_compiled(folder):
    """Let what one process compiles serve the next ones; torch by default compiles nothing."""
    folder = pathlib.Path(folder).absolute()
    if BACKEND == "jax":
        jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    elif BACKEND == "tensorflow":  # which reads this when it first compiles
        directory = f"--tf_xla_persistent_cache_directory={folder / 'tensorflow'}"
        os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {directory}"


if os.environ.get("KERAS_DIT_CACHE"):
    _keep_compiled(os.environ["KERAS_DIT_CACHE"])


def compile_inference(function, dtype="float32"):
    """Compile a pure function of tensors for repeated calls without gradients.

    Args:
        function: takes and returns (nested tuples, named tuples, lists or dicts of) tensors and
            None. It is compiled once for each structure, shape and dtype of its arguments; what
            may change between calls has to be an argument.
        dtype: in which it computes most.

    Returns:
        A callable with the same signature. JAX: `jax.jit`. TensorFlow: `tf.function` through
        XLA, but on a CPU without it in bfloat16, where XLA has none of oneDNN's fast products.
        torch: the function itself, eager, under `inference_mode`.
    """
    if BACKEND == "jax":
        return jax.jit(function)
    if BACKEND == "torch":
        return torch.inference_mode()(function)
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return _compile_tensorflow(function, xla=on_gpu or dtype != "bfloat16")


def _compile_tensorflow(function, xla):
    # One tf.function for each signature: a single one warns of retracing from the fifth on.
    compiled = {}

    def call(*arguments):
        leaves = tf.nest.flatten(arguments)
        key = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in leaves)
        if key not in compiled:
            compiled[key] = tf.function(function, jit_compile=xla, autograph=False)
        return compiled[key](*arguments)

    return call


def jit_compile_training():
    """Whether `fit` is faster through its backend's compiler, as a `jit_compile=` for Keras.

    Keras's own "auto" leaves TensorFlow without XLA on a CPU, where it trains at less than half
    of the speed; torch.compile does not pay for its start on small runs.
    """
    return BACKEND != "torch"
