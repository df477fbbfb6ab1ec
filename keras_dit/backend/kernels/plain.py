"""The operations of a network in plain `keras.ops`: what each of them means.

They run on every backend and have derivatives of any kind, forward mode included, which the fused
forms beside them lack. Sums and exponentials are float32 under any dtype.
"""

from keras import ops


def attention(q, k, v, mask=None):
    """Scaled dot-product attention, softmax(q kᵀ / √d) v.

    Args:
        q: tensor (B, H, T, d).
        k, v: tensors (B, H, L, d) of the same floating dtype.
        mask: (B, L), bool: which keys are there; None: all. Where none is, the result is 0.

    Returns:
        Tensor (B, H, T, d).

    Reference:
        Vaswani et al., Attention Is All You Need (2017), equation 1.
    """
    logits = ops.cast(ops.matmul(q, ops.swapaxes(k, -1, -2)), "float32") * q.shape[-1] ** -0.5
    if mask is not None:
        mask = ops.cast(mask, "bool")[:, None, None, :]
        logits = ops.where(mask, logits, -1e30)
    weights = ops.softmax(logits, axis=-1)
    if mask is not None:
        weights = ops.where(mask, weights, 0.0)
    return ops.matmul(ops.cast(weights, v.dtype), v)


def product(x, y, transpose_y=False):
    """x y, or x yᵀ, in float32.

    Args:
        x, y: tensors (..., N, I) and (..., I, O), or (..., O, I) if transposed, of one floating
            dtype.
        transpose_y: whether the last two axes of y are exchanged.

    Returns:
        Tensor (..., N, O), float32.
    """
    return ops.cast(ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y), "float32")


def linear(x, kernel, bias):
    """x W + b.

    Args:
        x: tensor (N, I).
        kernel, bias: variables or tensors (I, O), (O,); bias may be None.

    Returns:
        Tensor (N, O) of x's dtype.
    """
    y = ops.matmul(x, ops.cast(kernel, x.dtype))
    return y if bias is None else ops.add(y, ops.cast(bias, x.dtype))


def linear_gelu(x, kernel, bias):
    """GELU(x W + b) with the tanh form of GELU. Arguments and result as for `linear`."""
    y = ops.cast(linear(x, kernel, bias), "float32")
    return ops.cast(ops.gelu(y, approximate=True), x.dtype)


def multiply_add(x, factor, summand):
    """x factor + summand, the last two broadcast to x."""
    return x * factor + summand


def layer_norm(x, gain, bias, epsilon):
    """(x − mean) / √(variance + ε) · gain + bias over the last axis, computed in float32.

    Args:
        x: tensor (..., D).
        gain, bias: variables or tensors (D,), or None.
        epsilon: added to the variance.

    Returns:
        Tensor (..., D) of x's dtype.
    """
    wide = ops.cast(x, "float32")
    return _affine(rms(wide - ops.mean(wide, axis=-1, keepdims=True), epsilon), gain, bias, x)


def rms_norm(x, gain, epsilon):
    """x / √(mean of x² + ε) · gain over the last axis. Arguments and result as for `layer_norm`."""
    return _affine(rms(ops.cast(x, "float32"), epsilon), gain, None, x)


def modulated_layer_norm(x, shift, scale, epsilon):
    """LayerNorm(x) (1 + scale) + shift over the last axis, computed in float32.

    Args:
        x: tensor (B, T, D).
        shift, scale: tensors (B, 1, D) of the same dtype.
        epsilon: added to the variance.

    Returns:
        Tensor (B, T, D) of x's dtype.
    """
    return layer_norm(x, 1.0 + ops.cast(scale, "float32"), shift, epsilon)


def convolution(x, kernel, bias, strides=1):
    """The convolution of images, with zeros around them such that strides alone make them smaller.

    Where the zeros are uneven, the last row and column have one more.

    Args:
        x: tensor (B, H, W, I).
        kernel, bias: variables or tensors (h, w, I, O), (O,); bias may be None.
        strides: pixels from one place to the next, in both directions.

    Returns:
        Tensor (B, ⌈H / strides⌉, ⌈W / strides⌉, O) of x's dtype.
    """
    kernel = ops.cast(kernel, x.dtype)
    y = ops.conv(x, kernel, strides=strides, padding="same", data_format="channels_last")
    return y if bias is None else ops.add(y, ops.cast(bias, x.dtype))


def group_norm(x, gain, bias, groups, epsilon):
    """(x − mean) / √(variance + ε) · gain + bias, computed in float32.

    Mean and variance are those of all places of an image and of a group of neighbouring channels.

    Args:
        x: tensor (B, H, W, C).
        gain, bias: variables or tensors (C,).
        groups: how many; C is a multiple of it.
        epsilon: added to the variance.

    Returns:
        Tensor (B, H, W, C) of x's dtype.
    """
    channels = x.shape[-1]
    height, width = ops.shape(x)[1:3]
    wide = ops.reshape(ops.cast(x, "float32"), (-1, height, width, groups, channels // groups))
    centred = wide - _mean(wide)
    variance = _mean(ops.square(centred))
    normal = ops.reshape(centred * ops.rsqrt(variance + epsilon), (-1, height, width, channels))
    return _affine(normal, gain, bias, x)


def _mean(wide):
    """The mean of a group (B, 1, 1, groups, 1); row by row, which loses fewer digits."""
    rows = ops.mean(wide, axis=2, keepdims=True)
    return ops.mean(rows, axis=(1, 4), keepdims=True)


def doubled(x):
    """Images (B, H, W, C) at twice the size, (B, 2 H, 2 W, C), each pixel four times."""
    height, width = ops.shape(x)[1:3]
    x = ops.broadcast_to(
        x[:, :, None, :, None], (ops.shape(x)[0], height, 2, width, 2, x.shape[-1])
    )
    return ops.reshape(x, (-1, 2 * height, 2 * width, x.shape[-1]))


def rms(x, epsilon):
    """x / √(mean of x² + ε) over the last axis, of float32."""
    return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)


def _affine(normal, gain, bias, x):
    if gain is not None:
        normal = normal * ops.cast(gain, "float32")
    if bias is not None:
        normal = normal + ops.cast(bias, "float32")
    return ops.cast(normal, x.dtype)
