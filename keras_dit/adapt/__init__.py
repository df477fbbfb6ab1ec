"""A trained network changed afterwards: for other data, smaller, or by adapters."""

from keras_dit.adapt.extending import extend
from keras_dit.adapt.freezing import freeze, unfreeze
from keras_dit.adapt.lora import add_lora, load_lora, merge_lora, remove_lora, save_lora
from keras_dit.adapt.pruning import BlockInfluence, FirstOrder, Magnitude, Score, prune
from keras_dit.networks.resizing import resize

__all__ = [
    "BlockInfluence",
    "FirstOrder",
    "Magnitude",
    "Score",
    "add_lora",
    "extend",
    "freeze",
    "load_lora",
    "merge_lora",
    "prune",
    "remove_lora",
    "resize",
    "save_lora",
    "unfreeze",
]
