"""What a network is told beside the image: a value -> its embedding, and the null value."""

from keras_dit.conditions.label import LabelEmbedding, check_labels
from keras_dit.conditions.timestep import TimestepEmbedding

__all__ = ["LabelEmbedding", "TimestepEmbedding", "check_labels"]
