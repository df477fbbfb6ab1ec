"""The operations of a network: one plain form of each, and the one that each backend runs best."""

import importlib

from keras_dit.backend.kernels import plain
from keras_dit.backend.kernels.choice import choose, plain_kernels
from keras_dit.backend.selection import BACKEND

fused = importlib.import_module(f"{__name__}.{'torch_forms' if BACKEND == 'torch' else 'xla'}")

SQUARE, ROW, TOKENS, VECTORS = (8, 8), (8,), (2, 4, 8), (2, 1, 8)
HEADS = (1, 1, 64, 64)  # as many tokens and as wide as a kernel of a GPU may ask for
IMAGES, KERNEL = (1, 4, 4, 8), (3, 3, 8, 8)

attention = choose(plain.attention, fused.attention, HEADS, HEADS, HEADS)
convolution = choose(plain.convolution, fused.convolution, IMAGES, KERNEL, ROW)
doubled = choose(plain.doubled, fused.doubled, IMAGES)
group_norm = choose(plain.group_norm, fused.group_norm, IMAGES, ROW, ROW, 2, 1e-6)
layer_norm = choose(plain.layer_norm, fused.layer_norm, TOKENS, ROW, ROW, 1e-6)
linear = choose(plain.linear, fused.linear, SQUARE, SQUARE, ROW)
linear_gelu = choose(plain.linear_gelu, fused.linear_gelu, SQUARE, SQUARE, ROW)
modulated_layer_norm = choose(
    plain.modulated_layer_norm, fused.modulated_layer_norm, TOKENS, VECTORS, VECTORS, 1e-6
)
multiply_add = choose(plain.multiply_add, fused.multiply_add, TOKENS, VECTORS, TOKENS)
product = fused.product
rms_norm = choose(plain.rms_norm, fused.rms_norm, TOKENS, ROW, 1e-6)

__all__ = [
    "attention",
    "convolution",
    "doubled",
    "group_norm",
    "layer_norm",
    "linear",
    "linear_gelu",
    "modulated_layer_norm",
    "multiply_add",
    "plain_kernels",
    "product",
    "rms_norm",
]
