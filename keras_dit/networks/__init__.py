"""Networks, their published sizes and what they cost."""

from keras_dit.networks.base import Network
from keras_dit.networks.cost import count_parameters, multiply_adds
from keras_dit.networks.dit import DiTModel
from keras_dit.networks.presets import PRESETS, SIZES, preset_config
from keras_dit.networks.sharding import layout_map

__all__ = [
    "PRESETS",
    "SIZES",
    "DiTModel",
    "Network",
    "count_parameters",
    "layout_map",
    "multiply_adds",
    "preset_config",
]
