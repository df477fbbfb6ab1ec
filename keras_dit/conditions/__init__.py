"""What a network is told beside the image: a value -> vectors and tokens, and "nothing said"."""

from keras_dit.conditions.base import Condition, Context
from keras_dit.conditions.encoder import TextEncoder
from keras_dit.conditions.hub import KerasHub
from keras_dit.conditions.label import Label, check_labels
from keras_dit.conditions.setting import Setting
from keras_dit.conditions.text import Text
from keras_dit.conditions.timestep import TimestepEmbedding
from keras_dit.conditions.tokens import Sequence, Tokens
from keras_dit.conditions.vector import Vector
from keras_dit.conditions.words import WordEncoder, words_of

__all__ = [
    "Condition",
    "Context",
    "KerasHub",
    "Label",
    "Sequence",
    "Setting",
    "Text",
    "TextEncoder",
    "TimestepEmbedding",
    "Tokens",
    "Vector",
    "WordEncoder",
    "check_labels",
    "words_of",
]
