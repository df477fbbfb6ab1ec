"""The layers of a DiT, each usable alone."""

from keras_dit.layers.attention import SelfAttention
from keras_dit.layers.blocks import AdaLNBlock
from keras_dit.layers.modulation import FinalLayer
from keras_dit.layers.patches import PatchEmbedding, patchify, unpatchify
from keras_dit.layers.positions import sincos_positions

__all__ = [
    "AdaLNBlock",
    "FinalLayer",
    "PatchEmbedding",
    "SelfAttention",
    "patchify",
    "sincos_positions",
    "unpatchify",
]
