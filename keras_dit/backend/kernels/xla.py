"""The operations of a network in the form that XLA runs best, for JAX and TensorFlow.

What they mean stands in plain.py. XLA sees through most of it by itself; the gradients written here
touch large tensors less often, and keep fewer of them, than those that it finds.
"""

import functools
import math

from keras import ops

from keras_dit.backend.kernels import plain
from keras_dit.backend.kernels.choice import choose
from keras_dit.backend.kernels.plain import (  # noqa: F401  # as they are
    convolution,
    doubled,
    group_norm,
    layer_norm,
    multiply_add,
    rms_norm,
)
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax

    try:
        from jax.experimental.layout import Layout, with_layout_constraint

        Layout(major_to_minor=(0, 1))
    except (ImportError, TypeError):  # an older JAX, where they are missing or something else
        with_layout_constraint = None
else:
    import tensorflow as tf

FEW = 256  # queries, whose attention is kept for the gradient


def _on_cpu():
    if BACKEND == "jax":
        return jax.default_backend() == "cpu"
    return not tf.config.list_physical_devices("GPU")


def attention(q, k, v, mask=None):
    if mask is not None:
        mask = ops.cast(mask, "bool")[:, None, None, :]
        return _masked_attention(q, k, v, ops.cast(mask, "float32"))
    if BACKEND == "jax" and not _on_cpu():
        q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in (q, k, v))
        return ops.transpose(ops.dot_product_attention(q, k, v), (0, 2, 1, 3))
    return _attention(q, k, v)


@ops.custom_gradient
def _attention(q, k, v):
    return _attention_and_gradient(q, k, v, None)


@ops.custom_gradient
def _masked_attention(q, k, v, mask):
    mixed, gradient = _attention_and_gradient(q, k, v, mask)
    return mixed, lambda upstream: (*gradient(upstream), ops.zeros_like(mask))


def _attention_and_gradient(q, k, v, mask):
    """Of up to `FEW` queries the gradient finds what it needs in memory. More go in blocks, which
    are computed again for it, so that there never is a matrix (T, L).
    """
    length, dtype = q.shape[2], v.dtype
    few = length is None or length <= FEW  # it is not known in an export
    mixed, gradient = (_attend if few else _attend_in_blocks)(q, k, v, mask)

    def rounded(upstream):
        return tuple(ops.cast(part, dtype) for part in gradient(upstream))

    return mixed, rounded


def _attend_in_blocks(q, k, v, mask):
    length = q.shape[2]
    count = math.ceil(length / FEW)
    size = math.ceil(length / count)
    around = [(0, 0), (0, 0), (0, count * size - length), (0, 0)]

    def rows(x, i):
        return ops.slice(x, (0, 0, i * size, 0), (*ops.shape(x)[:2], size, x.shape[-1]))

    def put(x, i, part):
        return ops.slice_update(x, (0, 0, i * size, 0), ops.cast(part, x.dtype))

    def forward(i, mixed):
        return put(mixed, i, _attend(rows(q, i), k, v, mask)[0])

    def gradient(upstream):
        upstream = ops.pad(upstream, around)

        def backward(i, found):
            dq, dk, dv = found
            parts = _attend(rows(q, i), k, v, mask)[1](rows(upstream, i))
            return put(dq, i, parts[0]), dk + parts[1], dv + parts[2]

        zeros = tuple(ops.zeros(ops.shape(x), "float32") for x in (q, k, v))
        dq, dk, dv = ops.fori_loop(0, count, backward, zeros)
        return dq[:, :, :length], dk, dv

    q = ops.pad(q, around)
    nothing = ops.zeros((*ops.shape(q)[:3], v.shape[-1]), v.dtype)
    return ops.fori_loop(0, count, forward, nothing)[:, :, :length], gradient


def _attend(q, k, v, mask):
    """Attention as it is fast on a CPU: the (T, L) matrices are touched as rarely as can be.

    q is scaled before the product, and with w = exp(q kᵀ − max) and s its sum along a row the
    division comes after the product with v, out = w v / s, here and in the gradient:

        g = upstream / s,   dv = wᵀ g,   dlogits = w (g vᵀ − Σ g out)

    The exponential, the sums and the gradient are float32 under any dtype.
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
        return dq, product(_transposed_copy(dlogits), q), product(_transposed_copy(weights), g)

    return ops.cast(mixed, dtype), gradient


def _product(x, y, transpose_y=False):
    """Of bfloat16 XLA has fast products on a CPU, at two to four times the rate of float32, but
    only such as give float32. Any others it makes of float32 copies of x and y; so it does if y
    comes from a transpose of its own, which is why that belongs to the product. Elsewhere the
    product is rounded to the dtype of x first.
    """
    eager_tensorflow = BACKEND == "tensorflow" and tf.executing_eagerly()
    if x.dtype != "bfloat16" or eager_tensorflow or not _on_cpu():
        return plain.product(x, y, transpose_y)
    if BACKEND == "tensorflow":
        return _bfloat16_product_tensorflow(transpose_y)(x, y)
    batch, last = tuple(range(x.ndim - 2)), x.ndim - 1
    axes = ((last,), (last if transpose_y else last - 1,)), (batch, batch)
    return jax.lax.dot_general(x, y, axes, preferred_element_type="float32")


product = choose(plain.product, _product, (8, 8), (8, 8), True)


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
    x = ops.swapaxes(x, -1, -2)
    if BACKEND == "jax" and x.dtype == "bfloat16" and with_layout_constraint:
        x = with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
    return x


def linear(x, kernel, bias):
    # TensorFlow's custom gradient wants variables to be read before it.
    kernel = ops.cast(kernel, x.dtype)
    bias = None if bias is None else ops.cast(bias, x.dtype)
    if x.dtype != "bfloat16" or not _on_cpu():
        return plain.linear(x, kernel, bias)
    return _linear_bfloat16(
        x, kernel, ops.zeros(kernel.shape[1:], x.dtype) if bias is None else bias
    )


def linear_gelu(x, kernel, bias):
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


def modulated_layer_norm(x, shift, scale, epsilon):
    return _modulated_layer_norm(epsilon)(x, shift, scale)


def _modulated_layer_norm(epsilon):
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
