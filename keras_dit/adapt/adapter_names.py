"""What other programs call the layers of a network, and how their adapters lie there.

facebookresearch/DiT has one map to queries, keys and values, as here. diffusers has three: three
adapters of rank r are one of rank 3 r, whose B is a block for each; and one is three that share A.
Each of its blocks has a copy of the embedders of time and label: one adapter is that of all copies.
"""

from typing import Any

import numpy as np

from keras_dit.networks.base import Network
from keras_dit.weights import diffusers, layout
from keras_dit.weights.files import joined, some

PATCHES = "x_embedder.proj"  # a convolution there
STANDARDS = ("facebook_dit", "diffusers")


def ours(adapters: Any, network: Network) -> Any:
    """Adapters under the names of a file as ones under those of the network."""
    layers = dict(adapters.layers)
    if any(name.startswith("transformer_blocks.") for name in layers):
        layers = _joined(layers, network)
    back = {theirs: own for own, theirs in _layers(network).items()}
    weights = {theirs: own for own, theirs in _weights(network).items()}
    whole = {}
    for name, array in adapters.whole.items():
        own = weights.get(name, name.removesuffix(".weight").replace(".", "/"))
        whole[own] = layout.to_keras(name, array)
    return type(adapters)({back.get(n, n.replace(".", "/")): x for n, x in layers.items()}, whole)


def theirs(adapters: Any, network: Network, standard: str) -> Any:
    """Adapters under the names of the network as ones under those of another program.

    Args:
        adapters: `Adapters`.
        network: that they are of.
        standard: one of `STANDARDS`.

    Raises:
        ValueError: for another standard.
    """
    if standard not in STANDARDS:
        raise ValueError(f"names must be one of {', '.join(STANDARDS)}. Received: {standard!r}")
    names, weights = _layers(network), _weights(network)
    layers = {names.get(n, n.replace("/", ".")): x for n, x in adapters.layers.items()}
    whole = {}
    for own, array in adapters.whole.items():
        name = weights.get(own, own.replace("/", "."))
        shape = array.shape
        if name == f"{PATCHES}.weight":
            shape = (shape[1], *np.roll(patch_shape(network), 1))
        whole[name] = layout.to_foreign(name, array, shape)
    if standard == "diffusers":
        layers = _split(layers, network)
    return type(adapters)(layers, whole)


def patch_shape(network: Network) -> tuple[int, int, int]:
    """(p, p, C) of the map of patches."""
    patch = network.config["patch_size"]
    return patch, patch, network.image_shape[-1]


def _layers(network):
    """{name of a layer: what facebookresearch/DiT calls it}."""
    try:
        maps = layout.maps(network)
    except AttributeError:  # of other parts than DiT's
        return {}
    return {layer.path.removeprefix(f"{network.name}/"): name for name, layer in maps.items()}


def _weights(network):
    """{name of a weight: what facebookresearch/DiT calls it}."""
    found = {"label/table": "y_embedder.embedding_table.weight", "positions": "pos_embed"}
    for own, name in _layers(network).items():
        found |= {f"{own}/kernel": f"{name}.weight", f"{own}/bias": f"{name}.bias"}
    return found


# diffusers


def _of_diffusers(network):
    """(name of facebookresearch/DiT, whether its parts are joined, names of diffusers)."""
    for name, (how, others) in diffusers.names(network.config["depth"]).items():
        if name.endswith(".weight"):
            plain = [other.removesuffix(".weight") for other in others]
            yield name.removesuffix(".weight"), how is joined, plain


def _joined(layers, network):
    result = dict(layers)
    for name, several, others in _of_diffusers(network):
        parts = [result.pop(other, None) for other in others]
        there = [part for part in parts if part is not None]
        if there:
            result[name] = _one_of(parts, there) if several else _same(parts, others)
    return result


def _same(parts, names):
    """The one adapter that all copies of a layer have."""
    first = parts[0]
    same = all(
        part is not None
        and part.alpha == first.alpha
        and np.array_equal(part.a, first.a)
        and np.array_equal(part.b, first.b)
        for part in parts
    )
    if not same:
        raise ValueError(f"the adapters of these copies of one layer differ: {some(names)}")
    return first


def _one_of(parts, there):
    """One adapter of three, some of which may be missing."""
    width, rank, row = there[0].b.shape[1], sum(part.rank for part in there), 0
    b = np.zeros((rank, len(parts) * width), "float32")
    for place, part in enumerate(parts):
        if part is not None:
            scaled = part.b * (part.alpha / part.rank)
            b[row : row + part.rank, place * width : (place + 1) * width] = scaled
            row += part.rank
    return type(there[0])(np.concatenate([part.a for part in there], axis=1), b, float(rank))


def _split(layers, network):
    result = dict(layers)
    for name, several, others in _of_diffusers(network):
        adapter = result.pop(name, None)
        if adapter is not None:
            count = len(others)
            parts = np.split(adapter.b, count, axis=1) if several else [adapter.b] * count
            result |= {n: adapter._replace(b=b) for n, b in zip(others, parts, strict=True)}
    return result
