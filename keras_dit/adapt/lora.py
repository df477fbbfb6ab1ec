"""LoRA: a network learns by small matrices beside its large ones, which stay as they are.

    y = x (W + s A B),   A (I, r), B (r, O),   s = alpha / r                                   (1)

A starts at random and B at zero, so that nothing is different at first. The layers are Keras's own
(`enable_lora`); here is which of them, and what is done with all of them at once.

Reference:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.adapt import adapter_files
from keras_dit.adapt.adapter_files import Adapter, Adapters
from keras_dit.adapt.freezing import unfreeze
from keras_dit.networks.base import Network
from keras_dit.networks.naming import has_adapters, of_weights
from keras_dit.weights.files import some

__all__ = ["add_lora", "load_lora", "merge_lora", "remove_lora", "save_lora"]

WEIGHTS = ("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b")
BLOCKS = r"block_\d+/.*(attention|mlp)/"  # the attention and the MLP of each block


def add_lora(
    network: Network,
    rank: int,
    pattern: str = BLOCKS,
    alpha: float | None = None,
    whole: str | None = None,
) -> Network:
    """Put adapters on layers of a network, in place. They alone train; all else is frozen.

    The outputs are the same until the adapters are trained. `Diffusion.compile` comes afterwards:
    its optimizer is made for what trains.

    Args:
        network: a `DiTModel`, such as `Diffusion.network`.
        rank: r, the width of an adapter; a few are often enough, 16 is usual.
        pattern: a regular expression that is searched in the names of layers, such as
            "block_0/attention/qkv", "block_3/mlp/mlp_in", "block_3/modulation", "time/mlp_in",
            "final/projection". None but linear maps and embeddings are asked. By default the
            maps of each block's attention and MLP.
        alpha: what is added is A B alpha / rank; None: the rank, so that it is A B.
        whole: a regular expression for weights that train as they are, beside the adapters, such
            as "label/" where there are new classes; None: none.

    Returns:
        The network.

    Raises:
        ValueError: for a rank below 1, a pattern that no layer has, or a network that has adapters.

    Example:

    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10)
    >>> [w.name for w in add_lora(network, 2, "attention/qkv").trainable_weights]
    ['lora_kernel_a', 'lora_kernel_b']
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be an integer of 1 or more. Received: rank={rank!r}")
    if alpha is not None and not (isinstance(alpha, (int, float)) and 0 < alpha < float("inf")):
        raise ValueError(f"alpha must be None or a number above 0. Received: alpha={alpha!r}")
    if has_adapters(network):
        raise ValueError("the network has adapters already: merge_lora or remove_lora it first")
    names = _chosen("pattern", pattern, adaptable(network))
    weights = of_weights(network)
    trained = [] if whole is None else _chosen("whole", whole, weights)
    _freeze(network)
    for name in names:
        adaptable(network)[name].enable_lora(rank, lora_alpha=alpha)
    for name in trained:
        weights[name].trainable = True
    return network


def merge_lora(network: Network) -> Network:
    """Add what the adapters say to the weights, in place, and take the adapters off.

    The outputs are the same, and every weight trains again. Of a `Diffusion` that has an average
    take `sampling_network()`, whose adapters are merged with their average.

    Args:
        network: with adapters.

    Returns:
        The network.

    Raises:
        ValueError: for a network without adapters.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2)
    >>> count = network.count_params()
    >>> merge_lora(add_lora(network, 2)).count_params() == count
    True
    """
    for layer in _worn(network).values():
        if layer.quantization_mode is None:
            a, b = map(_numpy, pair(layer))
            weight = next(w for w in layer.weights if w.name in ("kernel", "embeddings"))
            scale = layer.lora_alpha / layer.lora_rank
            merged = _numpy(weight).astype("float64") + scale * (a.astype("float64") @ b)  # (1)
            weight.assign(merged.astype("float32"))
        else:  # Keras knows how to merge into integers
            store: dict = {}
            layer.save_own_variables(store)
            layer.load_own_variables({k: np.array(_numpy(value)) for k, value in store.items()})
    return remove_lora(network)


def remove_lora(network: Network) -> Network:
    """Take the adapters off, in place, and what they say with them. Every weight trains again.

    Args:
        network: with adapters.

    Returns:
        The network.

    Raises:
        ValueError: for a network without adapters.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2)
    >>> len(remove_lora(add_lora(network, 2)).trainable_weights)
    20
    """
    worn = _worn(network).values()
    with backend.dropping_weights():
        for layer in worn:
            for name in [name for name in vars(layer) if name in WEIGHTS]:
                delattr(layer, name)
            layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    unfreeze(network)
    return network


def load_lora(
    network: Network,
    paths: str | os.PathLike | Sequence,
    weights: float | Sequence[float] | None = None,
) -> Network:
    """Put adapters from files on a network, in place, instead of those that it has.

    Several are added up, each times its weight: the rank of their sum is the sum of their ranks.
    One alone can be trained on. What a file holds whole, such as the rows of new classes, replaces
    the network's own weights, and stays there when other adapters are loaded.

    Args:
        network: that they were made for: its layers have their names and sizes.
        paths: a file or a folder, or a list of them: what `save_lora` or peft wrote; of DiT's of
            diffusers too; or `hf://owner/name`.
        weights: of each, 1 is as it was trained, 0 is nothing, more is more of it; None: 1 each.

    Returns:
        The network.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that holds no adapters, or those of another network.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2)
    >>> save_lora(add_lora(network, 2), "lora.safetensors")
    >>> both = load_lora(network, ["lora.safetensors", "lora.safetensors"], [0.5, 0.25])
    >>> both.blocks[0].mlp.mlp_in.lora_rank
    4
    """
    files: list = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    shares = [1.0] * len(files) if weights is None else np.atleast_1d(weights).tolist()
    if not files or len(shares) != len(files):
        raise ValueError(
            "weights must be one for each of the files, at least one. "
            f"Received: {len(files)} files, weights={weights!r}"
        )
    found = [adapter_files.read(path, network) for path in files]
    for path, adapters in zip(files, found, strict=True):
        _check(path, adapters, network)
    if has_adapters(network):
        remove_lora(network)
    _freeze(network)
    layers, own = adaptable(network), of_weights(network)
    for name, adapter in _sum(found, shares).items():
        _put_on(layers[name], adapter)
    for name, array in _whole(found).items():
        own[name].assign(array.astype("float32"))
        own[name].trainable = True
    return network


def save_lora(
    network: Network,
    path: str | os.PathLike,
    values: Sequence | None = None,
    names: str = "facebook_dit",
    class_names: Sequence[str] | None = None,
) -> None:
    """Write the adapters of a network, and what else of it trains, as peft names them.

    Args:
        network: with adapters.
        path: a .safetensors file, or a folder, which is then as peft's `save_pretrained` writes it.
        values: of the weights, one for each of `network.weights`, such as those of
            `Diffusion.average`; None: what they are.
        names: of the layers: "facebook_dit", as facebookresearch/DiT has them, or "diffusers", as
            its `DiTTransformer2DModel` does. Layers that these do not have keep their own.
        class_names: names of the classes, in their order, kept for people and the command.

    Raises:
        ValueError: for a network without adapters.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2)
    >>> save_lora(add_lora(network, 2), "lora.safetensors")
    """
    values = network.weights if values is None else values
    held = {id(w): _numpy(v) for w, v in zip(network.weights, values, strict=True)}
    adapters = {}
    for name, layer in _worn(network).items():
        a, b = (held[id(weight)] for weight in pair(layer))
        adapters[name] = Adapter(a, b, layer.lora_alpha)
    inside = {id(weight) for layer in _worn(network).values() for weight in pair(layer)}
    whole = {
        name: held[id(weight)]
        for name, weight in of_weights(network).items()
        if weight.trainable and id(weight) not in inside
    }
    adapter_files.write(Adapters(adapters, whole), path, network, names, class_names)


# What others ask


def adaptable(network: Network) -> dict[str, Any]:
    """{name: layer} of all that can have an adapter."""
    start = f"{network.name}/"
    layers = backend.layers_of(network)
    found = [layer for layer in layers if hasattr(layer, "enable_lora")]
    return {layer.path.removeprefix(start): layer for layer in found}


def pair(layer: Any) -> tuple:
    """The variables A and B of a layer that has an adapter."""
    kind = "kernel" if hasattr(layer, "lora_kernel_a") else "embeddings"
    return getattr(layer, f"lora_{kind}_a"), getattr(layer, f"lora_{kind}_b")


def words(network: Network) -> str:
    """What a network's adapters are, for people."""
    layers = _worn(network)
    ranks = sorted({layer.lora_rank for layer in layers.values()})
    trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    return (
        f"adapters of rank {', '.join(map(str, ranks))} on {len(layers)} layers: "
        f"{trained:,} of {network.count_params():,} parameters train"
    )


# The layers


def _numpy(value):
    return ops.convert_to_numpy(value)


def _worn(network):
    """{name: layer} of those that have an adapter."""
    found = {n: layer for n, layer in adaptable(network).items() if layer.lora_enabled}
    if not found:
        raise ValueError("the network has no adapters (LoRA): add_lora or load_lora gives it some")
    return found


def _chosen(argument, pattern, names):
    try:
        found = [name for name in names if re.search(pattern, name)]
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{argument} must be a regular expression: {error}. Received: {argument}={pattern!r}"
        ) from None
    if not found:
        raise ValueError(
            f"{argument} must be found in a name, such as {some(names, 8)}. "
            f"Received: {argument}={pattern!r}"
        )
    return found


def _freeze(network):
    unfreeze(network)  # in a layer that is not trainable adapters would not train either
    for weight in network.weights:
        weight.trainable = False


def _put_on(layer, adapter):
    layer.enable_lora(adapter.a.shape[1], lora_alpha=adapter.alpha)
    for weight, array in zip(pair(layer), (adapter.a, adapter.b), strict=True):
        weight.assign(array.astype("float32"))


# What files hold


def _check(path: Any, adapters: Adapters, network: Network) -> None:
    """Raise ValueError unless the adapters of a file fit the network."""
    layers, own = adaptable(network), of_weights(network)
    unknown = [n for n in adapters.layers if n not in layers]
    unknown += [n for n in adapters.whole if n not in own]
    if unknown:
        raise ValueError(
            f"{path} has adapters for layers that the network has not: {some(unknown)}. "
            f"It has {some(layers, 8)}"
        )
    for name, adapter in adapters.layers.items():
        there, here = (len(adapter.a), adapter.b.shape[1]), _shape(layers[name])
        if there != here:
            raise ValueError(
                f"{path} is of a network of another size: {name} is {there} there and {here} here"
            )
    for name, array in adapters.whole.items():
        if array.shape != tuple(own[name].shape):
            raise ValueError(
                f"{path} holds {name} of shape {array.shape}, the network's is "
                f"{tuple(own[name].shape)}: for other classes or another size adapt.resize it first"
            )


def _shape(layer):
    """(I, O) of the layer's map."""
    if hasattr(layer, "input_dim"):  # an embedding
        return layer.input_dim, layer.output_dim
    return layer.input_spec.axes[-1], layer.units


def _sum(found: Sequence[Adapters], shares: Sequence[float]) -> dict[str, Adapter]:
    """The adapters of each layer as one: A side by side, B one above the other."""
    parts: dict[str, list] = {}
    for adapters, share in zip(found, shares, strict=True):
        for name, adapter in adapters.layers.items():
            parts.setdefault(name, []).append((adapter, share))
    return {name: _joined(group) for name, group in parts.items()}


def _joined(group):
    if len(group) == 1 and group[0][1] == 1:
        return group[0][0]
    scaled = [adapter.b * (share * adapter.alpha / adapter.rank) for adapter, share in group]
    a, b = np.concatenate([x.a for x, _ in group], axis=1), np.concatenate(scaled)
    return Adapter(a, b, a.shape[1])


def _whole(found: Sequence[Adapters]) -> Mapping[str, np.ndarray]:
    whole: dict[str, np.ndarray] = {}
    for adapters in found:
        twice = [name for name in adapters.whole if name in whole]
        if twice:
            raise ValueError(f"two of the files hold {some(twice)} whole: only one can be loaded")
        whole |= adapters.whole
    return whole
