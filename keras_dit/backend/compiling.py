"""How a function is compiled."""

import collections
import os
import pathlib

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    import torch.utils._pytree as pytree
else:
    import tensorflow as tf


def _keep_compiled(folder):
    """Let what one process compiles serve the next ones; torch.compile does so by itself."""
    folder = pathlib.Path(folder).absolute()
    if BACKEND == "jax":
        jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    elif BACKEND == "tensorflow":  # which reads this when it first compiles
        directory = f"--tf_xla_persistent_cache_directory={folder / 'tensorflow'}"
        os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {directory}"


if os.environ.get("KERAS_DIT_CACHE"):
    _keep_compiled(os.environ["KERAS_DIT_CACHE"])


def compile_inference(function, jit_compile="auto"):
    """Compile a pure function of tensors for repeated calls without gradients.

    Args:
        function: takes and returns (nested tuples, named tuples, lists or dicts of) tensors and
            None. It is compiled once for each structure, shape and dtype of its arguments; what
            may change between calls has to be an argument.
        jit_compile: True: by the backend's compiler (XLA, torch.compile); False: not by it;
            "auto": in the form that measures fastest, the time to compile counted.

    Returns:
        A callable with the same signature. "auto" is `jax.jit` on JAX and `tf.function` through
        XLA on TensorFlow; on torch it is, from the third call on, the record of the operations
        that `function` comes to: it takes half a second to make and spares what Python does
        between operations, a seventh of the time of DiT-S/4; torch.compile takes ten seconds and
        is no faster on a CPU.
    """
    if BACKEND == "jax":
        return jax.jit(function) if jit_compile else function
    if BACKEND == "torch":
        return _compile_torch(function, jit_compile)
    return _compile_tensorflow(function, bool(jit_compile))


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


def _compile_torch(function, jit_compile):
    if not jit_compile:
        return torch.inference_mode()(function)
    # What a run does but once, such as its last step, does not pay for being recorded.
    plain_calls = 2 if jit_compile == "auto" else 0
    calls, compiled = collections.Counter(), {}

    @torch.inference_mode()
    def call(*arguments):
        leaves, structure = pytree.tree_flatten(arguments)
        key = structure, *(None if x is None else (x.shape, x.dtype, x.device) for x in leaves)
        calls[key] += 1
        if calls[key] <= plain_calls:
            return function(*arguments)
        if key not in compiled:
            compiled[key] = _recorded(function, leaves, structure, jit_compile)
        return compiled[key](arguments, leaves)

    return call


def _recorded(function, leaves, structure, jit_compile):
    """(arguments, leaves) -> what `function` gives for them, by a record of its operations.

    A function that cannot be recorded, since it looks at numbers to go on, runs as it is.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    result_structure = None

    def flat(leaves):
        nonlocal result_structure
        results = function(*pytree.tree_unflatten(leaves, structure))
        results, result_structure = pytree.tree_flatten(results)
        return results

    recorder = make_fx(
        flat,
        decomposition_table=_understood_by_torch_compile() if jit_compile is True else None,
        tracing_mode="fake",  # no number is computed
        _allow_non_fake_inputs=True,
    )
    try:
        with torch.inference_mode(False), torch.no_grad():
            record = recorder(leaves)
    except Exception:  # whatever it is that cannot be recorded can be run
        return lambda arguments, leaves: function(*arguments)
    record.graph.eliminate_dead_code()
    record.recompile()
    if jit_compile is True:
        record = torch.compile(record, dynamic=False)
    return lambda arguments, leaves: pytree.tree_unflatten(record(leaves), result_structure)


def _understood_by_torch_compile():
    """What it puts in the place of an operation that it makes itself and does not take."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch is built without oneDNN
        return {}

    def linear_pointwise(x, weight, bias, activation, _, form):
        y = torch.nn.functional.linear(x, weight, bias)
        return y if activation == "none" else torch.nn.functional.gelu(y, approximate=form)

    return {torch.ops.mkldnn._linear_pointwise.default: linear_pointwise}


def jit_compile_training():
    """Whether `fit` is faster through its backend's compiler, as a `jit_compile=` for Keras.

    Keras's own "auto" leaves TensorFlow without XLA on a CPU, where it trains at less than half
    of the speed; torch.compile does not pay for its start on small runs.
    """
    return BACKEND != "torch"
