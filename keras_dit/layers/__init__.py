"""The layers of a DiT, each usable alone."""

from keras_dit.layers.attention import CrossAttention, InContextAttention, SelfAttention
from keras_dit.layers.blocks import AdaLNBlock
from keras_dit.layers.context import Context, as_context
from keras_dit.layers.convolutions import AttentionBlock, Convolution, ResidualBlock
from keras_dit.layers.encoder import EncoderBlock
from keras_dit.layers.in_context import InContextTokens
from keras_dit.layers.linear import TokenDense, gelu_tanh
from keras_dit.layers.mlps import MLP, SwiGLU
from keras_dit.layers.modulation import FinalLayer
from keras_dit.layers.norms import GroupNorm, LayerNorm, RMSNorm
from keras_dit.layers.parts import copy_part, load_parts, save_part
from keras_dit.layers.patches import (
    BottleneckPatchEmbedding,
    PatchEmbedding,
    patchify,
    unpatchify,
)
from keras_dit.layers.pooling import MeanPooling
from keras_dit.layers.positions import Rotary, grid_positions, sincos_positions

__all__ = [
    "MLP",
    "AdaLNBlock",
    "AttentionBlock",
    "BottleneckPatchEmbedding",
    "Context",
    "Convolution",
    "CrossAttention",
    "EncoderBlock",
    "FinalLayer",
    "GroupNorm",
    "InContextAttention",
    "InContextTokens",
    "LayerNorm",
    "MeanPooling",
    "PatchEmbedding",
    "RMSNorm",
    "ResidualBlock",
    "Rotary",
    "SelfAttention",
    "SwiGLU",
    "TokenDense",
    "as_context",
    "copy_part",
    "gelu_tanh",
    "grid_positions",
    "load_parts",
    "patchify",
    "save_part",
    "sincos_positions",
    "unpatchify",
]
