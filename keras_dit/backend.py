"""The only module that knows jax, torch and tensorflow apart.

Everything else of the package is `keras.ops`. What differs between backends, and therefore
stands here: which one is used, how a function is compiled for inference, the form of attention
each runs best, and facts about memory and devices.
"""

import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile

_PACKAGES = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}


def _runs_as_command():
    # sys.argv[0] is "-m" while `python -m keras_dit` looks the package up.
    return sys.argv[0] == "-m" or pathlib.Path(sys.argv[0]).stem == "keras-dit"


def _refuse(message):
    """Raise ImportError, or, when the package runs as a command, print one line and exit."""
    if _runs_as_command():
        print(f"keras-dit: error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


def _installed(name):
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def _configured():
    """The backend that the user chose: by environment, else in Keras's own file, else None."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    try:
        name = json.loads((home / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError):
        return None
    # Keras writes "tensorflow" there at its first import, whatever is installed.
    return name if name != "tensorflow" or _installed(name) else None


def _select():
    """Settle the backend before Keras is imported, or say why none can be used."""
    if "keras" in sys.modules:
        name = sys.modules["keras"].config.backend()
    else:
        name = _configured() or next(filter(_installed, _PACKAGES), None)
    if name is None:
        _refuse(
            "no backend is installed. Install one of jax, torch and tensorflow, "
            'for example with: pip install "keras_dit[jax]"'
        )
    if name not in _PACKAGES:
        _refuse(f"KERAS_BACKEND must be jax, torch or tensorflow. Received: KERAS_BACKEND={name}")
    if not _installed(name):
        _refuse(f'the backend {name} is not installed: pip install "keras_dit[{name}]"')
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = name


def _start_tensorflow():
    """Import TensorFlow and keep its start-up notices off a command's terminal.

    TF_CPP_MIN_LOG_LEVEL is not enough: TensorFlow 2.21 writes them whatever it says. Only lines
    that are known are kept back: information, and the error 303 of a machine without CUDA.
    """
    notice = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} |E\d{4} .*\(303\)$")
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not notice.match(line):
                    os.write(2, line)


_select()
if os.environ.get("KERAS_BACKEND") == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notices are not the user's
    if _runs_as_command():
        _start_tensorflow()

import keras  # noqa: E402
from keras import ops  # noqa: E402

BACKEND = keras.config.backend()

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


def compile_inference(function):
    """Compile a pure function of tensors for repeated calls without gradients.

    Args:
        function: takes and returns (nested tuples, named tuples, lists or dicts of) tensors and
            None. It is compiled once for each structure, shape and dtype of its arguments; what
            may change between calls has to be an argument.

    Returns:
        A callable with the same signature. JAX: `jax.jit`. TensorFlow: `tf.function` through
        XLA. torch: the function itself, eager, under `inference_mode`.
    """
    if BACKEND == "jax":
        return jax.jit(function)
    if BACKEND == "torch":
        return torch.inference_mode()(function)
    return _compile_tensorflow(function)


def _compile_tensorflow(function):
    # One tf.function for each signature: a single one warns of retracing from the fifth on.
    compiled = {}

    def call(*arguments):
        leaves = tf.nest.flatten(arguments)
        key = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in leaves)
        if key not in compiled:
            compiled[key] = tf.function(function, jit_compile=True, autograph=False)
        return compiled[key](*arguments)

    return call


def jit_compile_training():
    """Whether `fit` is faster through its backend's compiler, as a `jit_compile=` for Keras.

    Keras's own "auto" leaves TensorFlow without XLA on a CPU, where it trains at less than half
    of the speed; torch.compile does not pay for its start on small runs.
    """
    return BACKEND != "torch"


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
    """Run `update()`, which assigns to the variables, only where a scalar condition holds.

    On JAX it always runs, and what it assigned is chosen or not: XLA puts the choice into the
    loops that compute it, where a branch would copy every variable.
    """
    if BACKEND == "torch":
        if condition:
            update()
    elif BACKEND == "tensorflow":
        tf.cond(condition, lambda: (update(), 0)[1], lambda: 0)
    else:
        old = [v.value for v in variables]
        update()
        for variable, value in zip(variables, old):
            variable.assign(ops.where(condition, variable.value, value))


def synchronize(tensor):
    """Wait until `tensor` has been computed, so that a clock read next is right."""
    if BACKEND == "jax":
        jax.block_until_ready(tensor)
    elif BACKEND == "torch":
        if tensor.is_cuda:
            torch.cuda.synchronize()
    else:
        tensor.numpy()


def is_out_of_memory(error):
    """Whether an error says that host or device memory did not suffice."""
    signs = "RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "OOM when allocating"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def device_name():
    """The device that computes, in words, such as "cpu" or "NVIDIA A100-SXM4-40GB"."""
    if BACKEND == "jax":
        return jax.devices()[0].device_kind
    if BACKEND == "torch":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu")


def attention(q, k, v):
    """Scaled dot-product attention, softmax(q kᵀ / √d) v, in the form each backend runs best.

    Args:
        q, k, v: tensors (B, H, T, d) of one floating dtype.

    Returns:
        Tensor (B, H, T, d).

    Reference:
        Vaswani et al., Attention Is All You Need (2017), equation 1.
    """
    if BACKEND == "torch":
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    if BACKEND == "jax" and jax.default_backend() != "cpu":
        q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in (q, k, v))
        return ops.transpose(ops.dot_product_attention(q, k, v), (0, 2, 1, 3))
    # For XLA on a CPU: q is scaled before the product and the sum divides after it, so that the
    # (T, T) matrix is touched as few times as can be. The exponential is taken in float32.
    q = q * ops.cast(q.shape[-1] ** -0.5, q.dtype)
    logits = ops.cast(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), "float32")
    largest = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    weights = ops.exp(logits - largest)
    total = ops.sum(weights, axis=-1, keepdims=True)
    mixed = ops.cast(ops.matmul(ops.cast(weights, v.dtype), v), "float32")
    return ops.cast(mixed / total, v.dtype)
