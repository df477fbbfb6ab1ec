"""What a network is told beside the image: a value -> vectors and tokens, and "nothing said"."""

from keras_dit.conditions.base import Condition, Context
from keras_dit.conditions.label import Label, check_labels
from keras_dit.conditions.timestep import TimestepEmbedding
from keras_dit.conditions.tokens import Sequence, Tokens
from keras_dit.conditions.vector import Vector

__all__ = [
    "Condition",
    "Context",
    "Label",
    "Sequence",
    "TimestepEmbedding",
    "Tokens",
    "Vector",
    "check_labels",
]
