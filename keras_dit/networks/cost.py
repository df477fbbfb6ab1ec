"""What a network costs: parameters and multiply-adds, asked of its layers.

A network of one block is built without memory for its weights, which takes hundredths of a second
even for the largest; the other blocks are like the first.
"""

from collections.abc import Mapping
from typing import Any

import keras

from keras_dit import backend
from keras_dit.layers.attention import CrossAttention, InContextAttention, SelfAttention
from keras_dit.networks.dit import DiTModel


def count_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a network, fixed positions included.

    Args:
        config: arguments of `DiTModel` as a dict; those left out take its defaults.

    Example:

    >>> config = {"input_shape": (32, 32, 4), "num_classes": 1000, "learned_variance": True}
    >>> round(count_parameters(keras_dit.networks.preset_config("dit_xl_2") | config) / 1e6)
    675
    """
    network, others = _of_one_block(config)
    return network.count_params() + others * network.blocks[0].count_params()


def multiply_adds(config: dict) -> int:
    """Multiply-adds of one image's forward pass, which the paper's table calls Gflops.

    Those of linear maps and of attention. Parts of your own are asked for their Dense layers, each
    of which is taken to see every token of the image.

    Args:
        config: arguments of `DiTModel` as a dict; those left out take its defaults.

    Example:

    >>> config = {"input_shape": (32, 32, 4), "num_classes": 1000, "learned_variance": True}
    >>> round(multiply_adds(keras_dit.networks.preset_config("dit_xl_2") | config) / 1e9, 1)
    118.6
    """
    network, others = _of_one_block(config)
    tokens, block = network.positions.shape[1], network.blocks[0]
    told = network.conditions.values()
    memory = sum(condition.places for condition in told)
    once = network.time, network.final.modulation
    ends = sum(_size(layer) for part in once for layer in backend.layers_of(part))
    each = *backend.layers_of(network.patches), network.final.projection
    ends += tokens * sum(map(_size, each))
    for condition in told:
        length = getattr(condition, "length", 1)
        ends += sum(
            length * _size(layer) + _products(layer, length, length)
            for layer in backend.layers_of(condition)
        )
    early, beside = 0, 0
    if network.in_context is not None:
        early, beside = config.get("in_context_start", 0), network.in_context.count
    late = 1 + others - early
    of_block = _of_block(block, tokens, memory) if early else 0
    return ends + early * of_block + late * _of_block(block, tokens + beside, memory)


def longest_sequence(config: Mapping[str, Any]) -> int:
    """How many tokens go through a block at most: the image's and those of `in_context`."""
    network, _ = _of_one_block(config)
    beside = 0 if network.in_context is None else network.in_context.count
    return network.positions.shape[1] + beside


def _of_block(block, tokens, memory):
    return sum(
        _rows(layer, block, tokens, memory) * _size(layer) + _products(layer, tokens, memory)
        for layer in backend.layers_of(block)
    )


def _of_one_block(config):
    """A network of one block, without memory for its weights, and how many blocks it lacks."""
    small = {"name": "cost", **config, "depth": 1, "in_context_start": 0}
    network = backend.without_memory(lambda: DiTModel.from_config(small))
    return network, config["depth"] - 1


def _size(layer):
    """Multiply-adds of a linear map for one vector."""
    if not isinstance(layer, keras.layers.Dense):
        return 0
    inputs, outputs = layer.kernel.shape
    return inputs * outputs


def _rows(layer, block, tokens, memory):
    """How many vectors a linear map of a block sees."""
    if layer is getattr(block, "modulation", None):
        return 1
    return memory if layer.name == "key_value" else tokens


def _products(layer, tokens, memory):
    """Multiply-adds of an attention beside its linear maps: q kᵀ and weights v."""
    if not isinstance(layer, (SelfAttention, CrossAttention)):
        return 0
    width = layer.projection.kernel.shape[0]  # of all heads together
    if isinstance(layer, InContextAttention):
        return 2 * tokens * (tokens + memory) * width + memory * _size(layer.qkv)
    return 2 * tokens * (tokens if isinstance(layer, SelfAttention) else memory) * width
