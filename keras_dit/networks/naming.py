"""What a network's weights are called, in files and in the patterns that choose among them."""

import collections

import keras

from keras_dit import backend

__all__ = ["below_adapters", "has_adapters", "of_weights"]


def of_weights(network: keras.Layer) -> dict[str, keras.Variable]:
    """A network's weights by their names, which are their paths without the network's own name.

    Args:
        network: a layer that is built.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=16, depth=1, num_heads=2)
    >>> list(of_weights(network))[:3]
    ['positions', 'patches/projection/kernel', 'patches/projection/bias']
    """
    named: dict[str, keras.Variable] = {}
    seen: collections.Counter[str] = collections.Counter()
    for weight in network.weights:
        name = weight.path.removeprefix(f"{network.name}/")
        named[f"{name}#{seen[name]}" if name in seen else name] = weight
        seen[name] += 1
    return named


def has_adapters(network: keras.Layer) -> bool:
    """Whether layers of a network have adapters (LoRA).

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=16, depth=1, num_heads=2)
    >>> network.blocks[0].attention.qkv.enable_lora(2)
    >>> has_adapters(network)
    True
    """
    return any(getattr(layer, "lora_enabled", False) for layer in backend.layers_of(network))


def below_adapters(network: keras.Layer) -> dict[str, keras.Variable]:
    """The weights by name that stay as they are while adapters (LoRA) train; {} without adapters.

    Neither checkpoints nor the average repeat them.

    Args:
        network: a layer that is built.
    """
    if not has_adapters(network):
        return {}
    return {name: weight for name, weight in of_weights(network).items() if not weight.trainable}
