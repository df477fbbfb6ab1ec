"""The only module that knows jax, torch and tensorflow apart.

Everything else of the package is `keras.ops`. What differs between backends, and therefore
stands here: which one is used, how a function is compiled for inference, the form of attention
each runs best, and facts about memory and devices.
"""

import functools
import importlib.util
import json
import math
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


def synchronize(result):
    """Wait until `result` has been computed, so that a clock read next is right."""
    if BACKEND == "jax":
        jax.block_until_ready(result)
    elif BACKEND == "torch":
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    elif tf.config.list_physical_devices("GPU"):
        tf.experimental.sync_devices()  # on a CPU an operation returns when it is done


def peak_memory():
    """The most bytes held so far: of the GPU's memory where one computes, else of the process."""
    if BACKEND == "jax" and jax.default_backend() != "cpu":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    if BACKEND == "torch" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if BACKEND == "tensorflow" and tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
    return _attention_xla(q, k, v)


@ops.custom_gradient
def _attention_xla(q, k, v):
    """Attention as XLA runs it fast on a CPU: the (T, T) matrices are touched as rarely as can be.

    q is scaled before the product, and with w = exp(q kᵀ − max) and s its sum along a row the
    division comes after the product with v, out = w v / s, here and in the gradient:

        g = upstream / s,   dv = wᵀ g,   dlogits = w (g vᵀ − Σ g out)

    The exponential and the sums are float32 under any dtype.
    """
    dtype, scale = v.dtype, q.shape[-1] ** -0.5
    q = q * ops.cast(scale, dtype)
    logits = ops.cast(ops.matmul(q, _transposed(k)), "float32")
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    total = ops.sum(weights, axis=-1, keepdims=True)
    weights = ops.cast(weights, dtype)
    mixed = ops.cast(ops.matmul(weights, v), "float32") / total

    def gradient(upstream):
        g = ops.cast(upstream, "float32") / total
        delta = ops.sum(g * mixed, axis=-1, keepdims=True)
        g = ops.cast(g, dtype)
        dv = ops.matmul(_transposed(weights), g)
        dweights = ops.cast(ops.matmul(g, _transposed(v)), "float32") - delta
        dlogits = ops.cast(ops.cast(weights, "float32") * dweights, dtype)
        dq = ops.matmul(dlogits, k) * ops.cast(scale, dtype)
        return dq, ops.matmul(_transposed(dlogits), q), dv

    return ops.cast(mixed, dtype), gradient


def _transposed(x):
    return ops.transpose(x, (0, 1, 3, 2))


def linear(x, kernel, bias):
    """x W + b.

    Args:
        x: tensor (N, I).
        kernel, bias: variables or tensors (I, O), (O,).

    Returns:
        Tensor (N, O) of x's dtype.
    """
    if BACKEND != "torch":
        return ops.add(ops.matmul(x, kernel), bias)
    kernel, bias = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
    if not (_mkl_is_slow() and _onednn_takes(x)):
        return torch.nn.functional.linear(x, kernel.t(), bias)
    if torch.is_grad_enabled():
        return _OneDNNLinear.apply(x, kernel, bias)
    return _onednn_linear(x, kernel.t(), bias)


def linear_gelu(x, kernel, bias):
    """GELU(x W + b) with the tanh form of GELU. Arguments and result as for `linear`."""
    if BACKEND == "torch" and _onednn_takes(x) and not torch.is_grad_enabled():
        kernel, bias = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
        return _onednn_linear(x, kernel.t(), bias, "gelu", "tanh")
    return ops.gelu(linear(x, kernel, bias), approximate=True)


@functools.cache
def _mkl_is_slow():
    """Whether torch's own product of matrices, MKL's, runs at half of oneDNN's rate: on AMD's."""
    try:
        processor = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        processor = os.environ.get("PROCESSOR_IDENTIFIER", "")
    return "AuthenticAMD" in processor


def _onednn_takes(x):
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    )


def _onednn_linear(x, weight, bias=None, activation="none", form=""):
    """activation(x Wᵀ + b); the operation that torch.compile puts in the place of Linear."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)


if BACKEND == "torch":

    class _OneDNNLinear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, kernel, bias):
            ctx.save_for_backward(x, kernel)
            return _onednn_linear(x, kernel.t(), bias)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, upstream):
            x, kernel = ctx.saved_tensors
            dx = _onednn_linear(upstream, kernel) if ctx.needs_input_grad[0] else None
            # oneDNN would copy the transposed x: the product of tensors as they are is faster.
            return dx, x.t() @ upstream, upstream.sum(0)


def multiply_add(x, factor, summand):
    """x factor + summand, the last two broadcast to x: one pass over memory on every backend."""
    if BACKEND == "torch":
        return torch.addcmul(summand, x, factor)
    return x * factor + summand


def modulated_layer_norm(x, shift, scale, epsilon):
    """LayerNorm(x) (1 + scale) + shift over the last axis, computed in float32.

    Args:
        x: tensor (B, T, D).
        shift, scale: tensors (B, 1, D) of the same dtype.
        epsilon: added to the variance.

    Returns:
        Tensor (B, T, D) of x's dtype.
    """
    if BACKEND == "torch":
        normal = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=epsilon)
        return torch.addcmul(shift, normal, 1.0 + scale)
    return _modulated_layer_norm_xla(epsilon)(x, shift, scale)


def _modulated_layer_norm_xla(epsilon):
    """With n the normalised x and r = 1/√(variance + ε), h = upstream (1 + scale):

        dx = r (h − mean(h) − n mean(h n)),   dshift = Σ upstream,   dscale = Σ upstream n

    The gradient keeps x alone; XLA's own keeps several tensors of its size.
    """

    def normalised(x):
        x = ops.cast(x, "float32")
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        inverse = ops.rsqrt(variance + epsilon)
        return centred * inverse, inverse

    @ops.custom_gradient
    def modulated(x, shift, scale):
        factor = 1.0 + ops.cast(scale, "float32")

        def gradient(upstream):
            upstream = ops.cast(upstream, "float32")
            n, inverse = normalised(x)
            h = upstream * factor
            along = ops.mean(h * n, axis=-1, keepdims=True)
            dx = inverse * (h - ops.mean(h, axis=-1, keepdims=True) - n * along)
            dshift = ops.sum(upstream, axis=1, keepdims=True)
            dscale = ops.sum(upstream * n, axis=1, keepdims=True)
            return tuple(ops.cast(part, x.dtype) for part in (dx, dshift, dscale))

        n, _ = normalised(x)
        return ops.cast(n * factor + ops.cast(shift, "float32"), x.dtype), gradient

    return modulated


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
        new = ops.stop_gradient(ops.cast(weight, "float32"))
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
    if any(variable.value.is_cuda or variable.dtype != "float32" for variable in variables):
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
