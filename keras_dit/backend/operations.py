"""The operations of a network, in the form that each backend runs best."""

import contextlib
import contextvars
import functools
import os
import pathlib

from keras import ops

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf

_OUTSIDE_XLA = contextvars.ContextVar("outside XLA", default=False)


@contextlib.contextmanager
def outside_xla():
    """While this is entered TensorFlow's operations take the forms that run fast without XLA."""
    token = _OUTSIDE_XLA.set(True)
    try:
        yield
    finally:
        _OUTSIDE_XLA.reset(token)


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
    if _OUTSIDE_XLA.get():  # its softmax is computed in float32 under any dtype
        logits = ops.matmul(q * ops.cast(q.shape[-1] ** -0.5, q.dtype), _transposed(k))
        return ops.matmul(tf.nn.softmax(logits), v)
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
    if _OUTSIDE_XLA.get():
        return _compiled_layer_norm(epsilon)(x, shift, scale)
    return _modulated_layer_norm_xla(epsilon)(x, shift, scale)


@functools.cache
def _compiled_layer_norm(epsilon):
    """XLA for it alone: TensorFlow's own operations take a pass over memory each."""
    return tf.function(_modulated_layer_norm_xla(epsilon), jit_compile=True, autograph=False)


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
