"""The operations of a network, in the form that each backend runs best."""

import functools
import os
import pathlib

from keras import ops

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax

    try:
        from jax.experimental.layout import Layout, with_layout_constraint

        Layout(major_to_minor=(0, 1))
    except (ImportError, TypeError):  # an older JAX, where they are missing or something else
        with_layout_constraint = None
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


def _on_cpu():
    if BACKEND == "jax":
        return jax.default_backend() == "cpu"
    return not tf.config.list_physical_devices("GPU")


def attention(q, k, v, mask=None):
    """Scaled dot-product attention, softmax(q kᵀ / √d) v, in the form each backend runs best.

    Args:
        q: tensor (B, H, T, d).
        k, v: tensors (B, H, L, d) of the same floating dtype.
        mask: (B, L), bool: which keys are there; None: all. Where none is, the result is 0.

    Returns:
        Tensor (B, H, T, d).

    Reference:
        Vaswani et al., Attention Is All You Need (2017), equation 1.
    """
    if mask is not None:
        mask = ops.cast(mask, "bool")[:, None, None, :]
    if BACKEND == "torch":
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    if BACKEND == "jax" and not _on_cpu() and mask is None:
        q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in (q, k, v))
        return ops.transpose(ops.dot_product_attention(q, k, v), (0, 2, 1, 3))
    if mask is None:
        return _attention_xla(q, k, v)
    return _masked_attention_xla(q, k, v, ops.cast(mask, "float32"))


@ops.custom_gradient
def _attention_xla(q, k, v):
    return _attention_and_gradient(q, k, v, None)


@ops.custom_gradient
def _masked_attention_xla(q, k, v, mask):
    mixed, gradient = _attention_and_gradient(q, k, v, mask)
    return mixed, lambda upstream: (*gradient(upstream), ops.zeros_like(mask))


def _attention_and_gradient(q, k, v, mask):
    """Attention as XLA runs it fast on a CPU: the (T, L) matrices are touched as rarely as can be.

    q is scaled before the product, and with w = exp(q kᵀ − max) and s its sum along a row the
    division comes after the product with v, out = w v / s, here and in the gradient:

        g = upstream / s,   dv = wᵀ g,   dlogits = w (g vᵀ − Σ g out)

    The exponential and the sums are float32 under any dtype.
    """
    dtype, scale = v.dtype, q.shape[-1] ** -0.5
    q = q * ops.cast(scale, dtype)
    logits = product(q, k, transpose_y=True)
    if mask is not None:
        logits = ops.where(mask > 0, logits, -1e30)
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    if mask is not None:
        weights = weights * mask
    total = ops.sum(weights, axis=-1, keepdims=True)
    if mask is not None:
        total = ops.where(total > 0, total, 1.0)
    weights = ops.cast(weights, dtype)
    mixed = product(weights, v) / total

    def gradient(upstream):
        g = ops.cast(upstream, "float32") / total
        delta = ops.sum(g * mixed, axis=-1, keepdims=True)
        g = ops.cast(g, dtype)
        dweights = product(g, v, transpose_y=True) - delta
        dlogits = ops.cast(ops.cast(weights, "float32") * dweights, dtype)
        dq = product(dlogits, k) * scale
        dk, dv = product(_transposed_copy(dlogits), q), product(_transposed_copy(weights), g)
        return tuple(ops.cast(part, dtype) for part in (dq, dk, dv))

    return ops.cast(mixed, dtype), gradient


def _transposed(x):
    """Its last two axes exchanged."""
    return ops.swapaxes(x, -1, -2)


def product(x, y, transpose_y=False):
    """x y, or x yᵀ, in float32; rounded to the dtype of x first, unless it is under XLA on a CPU.

    Of bfloat16 XLA has fast products on a CPU, at two to four times the rate of float32, but only
    such as give float32. Any others it makes of float32 copies of x and y; so it does if y comes
    from a transpose of its own, which is why that belongs to the product.

    Args:
        x, y: tensors (..., N, I) and (..., I, O), or (..., O, I) if transposed, of one floating
            dtype.
        transpose_y: whether the last two axes of y are exchanged.

    Returns:
        Tensor (..., N, O), float32.
    """
    eager_tensorflow = BACKEND == "tensorflow" and tf.executing_eagerly()
    if x.dtype != "bfloat16" or eager_tensorflow or not _on_cpu():
        return ops.cast(ops.matmul(x, _transposed(y) if transpose_y else y), "float32")
    if BACKEND == "tensorflow":
        return _bfloat16_product_tensorflow(transpose_y)(x, y)
    batch, last = tuple(range(x.ndim - 2)), x.ndim - 1
    axes = ((last,), (last if transpose_y else last - 1,)), (batch, batch)
    return jax.lax.dot_general(x, y, axes, preferred_element_type="float32")


@functools.cache
def _bfloat16_product_tensorflow(transpose_y):
    """Compiled, since a graph without XLA has no such product; within XLA that is all one."""

    def product(x, y):
        return tf.raw_ops.BatchMatMulV3(x=x, y=y, Tout=tf.float32, adj_y=transpose_y)

    return tf.function(product, jit_compile=True, autograph=False)


def _transposed_copy(x):
    """Its last two axes exchanged, for a first factor in bfloat16.

    XLA would fold the transpose into the product, and has no fast form of that one. In TensorFlow
    there is no way to keep it from that.
    """
    x = _transposed(x)
    if BACKEND == "jax" and x.dtype == "bfloat16" and with_layout_constraint:
        x = with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
    return x


def linear(x, kernel, bias):
    """x W + b.

    Args:
        x: tensor (N, I).
        kernel, bias: variables or tensors (I, O), (O,); bias may be None.

    Returns:
        Tensor (N, O) of x's dtype.
    """
    if BACKEND != "torch":
        # TensorFlow's custom gradient wants variables to be read before it.
        kernel = ops.cast(kernel, x.dtype)
        bias = None if bias is None else ops.cast(bias, x.dtype)
        if x.dtype == "bfloat16" and _on_cpu():
            bias = ops.zeros((kernel.shape[1],), x.dtype) if bias is None else bias
            return _linear_bfloat16(x, kernel, bias)
        y = ops.matmul(x, kernel)
        return y if bias is None else ops.add(y, bias)
    kernel, bias = _tensors(kernel, bias)
    if not (_mkl_is_slow() and _onednn_takes(x)):
        return torch.nn.functional.linear(x, kernel.t(), bias)
    if torch.is_grad_enabled():
        return _OneDNNLinear.apply(x, kernel, bias)
    return _onednn_linear(x, kernel.t(), bias)


def _tensors(*variables):
    return (None if v is None else ops.convert_to_tensor(v) for v in variables)


def linear_gelu(x, kernel, bias):
    """GELU(x W + b) with the tanh form of GELU. Arguments and result as for `linear`."""
    if BACKEND == "torch" and _onednn_takes(x) and not torch.is_grad_enabled():
        kernel, bias = _tensors(kernel, bias)
        return _onednn_linear(x, kernel.t(), bias, "gelu", "tanh")
    if BACKEND == "torch":
        return ops.gelu(linear(x, kernel, bias), approximate=True)
    y = ops.cast(linear(x, kernel, bias), "float32")  # XLA would round at each operation in it
    return ops.cast(ops.gelu(y, approximate=True), x.dtype)


@ops.custom_gradient
def _linear_bfloat16(x, kernel, bias):
    def gradient(upstream):
        dx = product(upstream, kernel, transpose_y=True)
        dbias = ops.sum(ops.cast(upstream, "float32"), axis=0)
        gradients = dx, product(_transposed_copy(x), upstream), dbias
        return tuple(ops.cast(part, "bfloat16") for part in gradients)

    return ops.cast(product(x, kernel) + ops.cast(bias, "float32"), "bfloat16"), gradient


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
            dbias = upstream.sum(0) if ctx.needs_input_grad[2] else None
            return dx, x.t() @ upstream, dbias


def multiply_add(x, factor, summand):
    """x factor + summand, the last two broadcast to x: one pass over memory on every backend."""
    if BACKEND == "torch":
        return torch.addcmul(summand, x, factor)
    return x * factor + summand


def layer_norm(x, gain, bias, epsilon):
    """(x − mean) / √(variance + ε) · gain + bias over the last axis; gain and bias may be None."""
    if BACKEND == "torch":
        gain, bias = _tensors(gain, bias)
        return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, epsilon)
    return ops.layer_normalization(x, gain, bias, epsilon=epsilon)


def rms_norm(x, gain, epsilon):
    """x / √(mean of x² + ε) · gain over the last axis; gain may be None."""
    if BACKEND == "torch":
        (gain,) = _tensors(gain)
        return torch.nn.functional.rms_norm(x, x.shape[-1:], gain, epsilon)
    return ops.rms_normalization(x, gain, epsilon=epsilon)


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
