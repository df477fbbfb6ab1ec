"""The operations of a network in the form that torch runs best; what they mean stands in plain.py.

torch's own product of matrices, MKL's, runs at half of oneDNN's rate on AMD's processors.
"""

import functools
import os
import pathlib

import torch
from keras import ops
from torch.nn import functional

from keras_dit.backend.kernels.plain import product  # noqa: F401  # no other form is faster

FEW = 256 * 256  # places, of which torch's own group norm has lost two digits


def attention(q, k, v, mask=None):
    if mask is not None:
        mask = mask.bool()[:, None, None, :]
    return functional.scaled_dot_product_attention(q, k, v, mask)


def linear(x, kernel, bias):
    kernel, bias = _tensors(kernel, bias)
    if not (_mkl_is_slow() and _onednn_takes(x)):
        return functional.linear(x, kernel.t(), bias)
    if torch.is_grad_enabled():
        return _OneDNNLinear.apply(x, kernel, bias)
    return _onednn_linear(x, kernel.t(), bias)


def linear_gelu(x, kernel, bias):
    if _onednn_takes(x) and not torch.is_grad_enabled():
        kernel, bias = _tensors(kernel, bias)
        return _onednn_linear(x, kernel.t(), bias, "gelu", "tanh")
    return functional.gelu(linear(x, kernel, bias), approximate="tanh")


def multiply_add(x, factor, summand):
    return torch.addcmul(summand, x, factor)


def layer_norm(x, gain, bias, epsilon):
    gain, bias = _tensors(gain, bias)
    return functional.layer_norm(x, x.shape[-1:], gain, bias, epsilon)


def rms_norm(x, gain, epsilon):
    (gain,) = _tensors(gain)
    return functional.rms_norm(x, x.shape[-1:], gain, epsilon)


def modulated_layer_norm(x, shift, scale, epsilon):
    normal = functional.layer_norm(x, x.shape[-1:], eps=epsilon)
    return torch.addcmul(shift, normal, 1.0 + scale)


def convolution(x, kernel, bias, strides=1):
    kernel, bias = _tensors(kernel, bias)
    kernel = kernel.to(x.dtype).permute(3, 2, 0, 1)  # (O, I, h, w)
    x = x.permute(0, 3, 1, 2)  # channels stay last in memory
    around = [_around(x.shape[-axis], kernel.shape[-axis], strides) for axis in (1, 2)]
    uneven = any(before != after for before, after in around)
    if uneven:
        x = functional.pad(x, [size for pair in around for size in pair])
    padding = 0 if uneven else tuple(before for before, _ in reversed(around))
    bias = None if bias is None else bias.to(x.dtype)
    return functional.conv2d(x, kernel, bias, strides, padding).permute(0, 2, 3, 1)


def _around(size, kernel, strides):
    """Zeros before and after an axis."""
    zeros = max((-(-size // strides) - 1) * strides + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2


def group_norm(x, gain, bias, groups, epsilon):
    if x.shape[1] * x.shape[2] > FEW:
        return _group_norm_of_many(x, *_tensors(gain, bias), groups, epsilon)
    gain, bias = (part.to(x.dtype) for part in _tensors(gain, bias))
    x = x.permute(0, 3, 1, 2)
    return functional.group_norm(x, groups, gain, bias, epsilon).permute(0, 2, 3, 1)


def _group_norm_of_many(x, gain, bias, groups, epsilon):
    """The same by moments of each channel, to the last digits.

    torch's own norm of a channels-last image adds up its places one after another in float32,
    and has lost four digits at 1024 x 1024.
    """
    channels = x.shape[-1]
    wide = x.float().flatten(1, 2)  # (B, H W, C)
    variance, mean = torch.var_mean(wide, dim=1, correction=0)
    means, variances = (part.view(-1, groups, channels // groups) for part in (mean, variance))
    mean = means.mean(-1, keepdim=True)
    variance = (variances + (means - mean) ** 2).mean(-1, keepdim=True)
    scale, mean = (
        part.expand_as(means).reshape(-1, 1, channels)
        for part in (torch.rsqrt(variance + epsilon), mean)
    )
    scale = scale * gain.float()
    return torch.addcmul(bias.float() - mean * scale, wide, scale).view(x.shape).to(x.dtype)


def doubled(x):
    return functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2).permute(0, 2, 3, 1)


def _tensors(*variables):
    return (None if v is None else ops.convert_to_tensor(v) for v in variables)


@functools.cache
def _mkl_is_slow():
    try:
        processor = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        processor = os.environ.get("PROCESSOR_IDENTIFIER", "")
    return "AuthenticAMD" in processor


def _onednn_takes(x):
    return (
        not torch.compiler.is_compiling()  # which makes a choice of its own
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
    )


def _onednn_linear(x, weight, bias=None, activation="none", form=""):
    """activation(x Wᵀ + b); the operation that torch.compile puts in the place of Linear.

    It does not take that operation itself, which it meets where it runs a function as it is, such
    as one of which it has compiled too many variants, and compiles what that calls.
    """
    if torch.compiler.is_compiling():
        y = functional.linear(x, weight, bias)
        return y if activation == "none" else functional.gelu(y, approximate=form)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)


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
        dbias = upstream.sum(0) if ctx.needs_input_grad[2] else None
        # oneDNN would copy the transposed x: the product of tensors as they are is faster.
        return dx, x.t() @ upstream, dbias
