"""A smaller network of a trained one's most important parts: heads, units of the MLPs, blocks.

What is left out is left out whole (structured pruning), so the smaller network is an ordinary one,
with smaller matrices, that takes less time. Each block keeps as many heads and units as every
other, its own best ones, since a network's blocks are all of one form.

Reference:
    Li et al., Pruning Filters for Efficient ConvNets (2017), for magnitudes; Molchanov et al.,
    Importance Estimation for Neural Network Pruning (2019), for the first order; Men et al.,
    ShortGPT (2024), for blocks. DiTs pruned: Fang et al., TinyFusion (2024).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.layers import AdaLNBlock
from keras_dit.layers.attention import SelfAttention
from keras_dit.layers.mlps import MLP, SwiGLU
from keras_dit.layers.parts import save_part
from keras_dit.networks import DiTModel

__all__ = ["BlockInfluence", "FirstOrder", "Magnitude", "Score", "prune"]


class Score:
    """How much the parts of a network matter to it. A subclass gives what it can tell."""

    example = "adapt.Magnitude()"

    def heads(self, network: DiTModel) -> list[np.ndarray]:
        """For each block the scores of its attention's heads, (H,)."""
        raise ValueError(f"{self!r} says nothing of heads: give another score")

    def units(self, network: DiTModel) -> list[np.ndarray]:
        """For each block the scores of its MLP's units, (U,)."""
        raise ValueError(f"{self!r} says nothing of an MLP's units: give another score")

    def blocks(self, network: DiTModel) -> np.ndarray:
        """The scores of the blocks, (depth,)."""
        raise ValueError(f"{self!r} says nothing of blocks: give another score")


@dataclass(frozen=True)
class Magnitude(Score):
    """The size of the weights that lead into a part times that of those that lead out of it.

    Of a head these are the values' and the last map's, of a unit those of the MLP's two maps; of a
    block the maps' that end its two branches, times its gates'. What adds nothing has a score of 0.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2)
    >>> Magnitude().blocks(network).tolist()  # a new block does nothing
    [0.0]
    """

    def heads(self, network: DiTModel) -> list[np.ndarray]:
        return [_head_size(block.attention) for block in network.blocks]

    def units(self, network: DiTModel) -> list[np.ndarray]:
        return [_unit_size(block.mlp) for block in network.blocks]

    def blocks(self, network: DiTModel) -> np.ndarray:
        return np.array([_block_size(block) for block in network.blocks])


def _head_size(attention):
    values = np.split(_with_bias(attention.qkv), 3, axis=1)[2]  # (D + 1, H h)
    count = attention.num_heads
    into = np.sqrt((values**2).reshape(len(values), count, -1).sum((0, 2)))
    out = np.sqrt((_array(attention.projection.kernel) ** 2).reshape(count, -1).sum(1))
    return into * out


def _unit_size(mlp):
    out = np.sqrt((_array(mlp.mlp_out.kernel) ** 2).sum(1))
    into = (_with_bias(mlp.mlp_in) ** 2).sum(0).reshape(-1, len(out)).sum(0)  # SwiGLU has two
    return np.sqrt(into) * out


def _block_size(block):
    gates = np.sqrt((_with_bias(block.modulation) ** 2).sum(0)).reshape(6, -1)
    ends = block.attention.projection, block.mlp.mlp_out
    sizes = [(_with_bias(end) ** 2).sum(0) for end in ends]
    return np.sqrt(np.sum(sizes[0] * gates[2] ** 2 + sizes[1] * gates[5] ** 2))


@dataclass(frozen=True)
class FirstOrder(Score):
    """How much a loss would change, to first order, if a part were left out: |Σ w ∂L/∂w|.

    The sum is over the weights that lead out of a head or a unit, and over the gates of a block:
    without these it adds nothing.

    Args:
        loss: () -> a scalar tensor, of the network that is pruned.
        moved: the variables that it reads or changes, `diffusion.variables`; None: the network's.
        batches: how often it is asked; the root of the mean of the squares counts.

    Example:

    >>> images, labels = keras_dit.datasets.load_digits()
    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=10)
    >>> diffusion = keras_dit.Diffusion(network)
    >>> y = ops.convert_to_tensor(labels[:8])
    >>> score = FirstOrder(lambda: diffusion.compute_loss(images[:8], y), diffusion.variables)
    >>> score.heads(network)[0].shape
    (2,)

    Reference:
        Molchanov et al. (2019), equation 8.
    """

    loss: Callable[[], Any]
    moved: Sequence | None = None
    batches: int = 1

    def heads(self, network: DiTModel) -> list[np.ndarray]:
        ends = [block.attention.projection for block in network.blocks]
        sums = self._sums(network, [(end.kernel,) for end in ends])
        counts = [block.attention.num_heads for block in network.blocks]
        return [
            _root(s.sum(-1).reshape(len(s), count, -1).sum(-1)) for s, count in zip(sums, counts)
        ]

    def units(self, network: DiTModel) -> list[np.ndarray]:
        sums = self._sums(network, [(block.mlp.mlp_out.kernel,) for block in network.blocks])
        return [_root(s.sum(-1)) for s in sums]

    def blocks(self, network: DiTModel) -> np.ndarray:
        layers = [block.modulation for block in network.blocks]
        sums = self._sums(network, [(layer.kernel, layer.bias) for layer in layers])
        gates = [s.sum(1).reshape(len(s), 6, -1)[:, (2, 5)].sum((1, 2)) for s in sums]
        return np.array([_root(gate) for gate in gates])

    def _sums(self, network, groups):
        """For each group of variables w ∂L/∂w, (batches, rows, columns)."""
        variables = [variable for group in groups for variable in group]
        if any(getattr(x, "lora_enabled", False) for x in backend.layers_of(network)):
            raise ValueError(
                "of a network with adapters (LoRA) the weights have no slope: merge them"
            )
        moved = list(self.moved if self.moved is not None else network.variables)
        found = []
        for _ in range(self.batches):
            gradients, _ = backend.gradients(lambda: (self.loss(),) * 2, variables, moved)
            if any(gradient is None for gradient in gradients):
                raise ValueError("the loss does not depend on the network that is pruned")
            found.append([_array(g) * _array(v) for g, v in zip(gradients, variables)])
        stacked = iter([np.stack(products) for products in zip(*found)])
        rows = [[_rows(next(stacked)) for _ in group] for group in groups]
        return [np.concatenate(group, axis=1) for group in rows]


def _rows(products):
    """(batches, columns) -> (batches, 1, columns)"""
    return products if products.ndim == 3 else products[:, None]


def _root(sums):
    return np.sqrt(np.mean(sums**2, axis=0))


@dataclass(frozen=True)
class BlockInfluence(Score):
    """How much a block turns the tokens: 1 − the cosine between those it gets and gives.

    Args:
        x, t, y: what the network is given, noisy images (B, H, W, C), timesteps (B,) and what it is
            told.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 16, 2, 2)
    >>> x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    >>> BlockInfluence(x, np.full(4, 500.0, "float32")).blocks(network).round(6)
    array([0., 0.], dtype=float32)

    Reference:
        Men et al. (2024), equation 1.
    """

    x: Any
    t: Any
    y: Any = None

    def blocks(self, network: DiTModel) -> np.ndarray:
        given = [None if v is None else ops.convert_to_tensor(v) for v in (self.x, self.t, self.y)]
        _, tokens = network(*given, hidden=tuple(range(1, len(network.blocks) + 1)))
        tokens = [network.embed(*given)[0], *tokens]
        tokens = [_array(ops.cast(x, "float32")) for x in tokens]
        unit = [x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in tokens]
        return np.array([1 - np.mean(np.sum(a * b, -1)) for a, b in itertools.pairwise(unit)])


def prune(
    network: DiTModel,
    heads: int | None = None,
    mlp: int | None = None,
    depth: int | None = None,
    score: Score | None = None,
    block_score: Score | None = None,
) -> DiTModel:
    """A smaller network with the most important parts of a trained one.

    Training it on, perhaps with the whole one as its teacher, recovers most of what is lost.

    Args:
        network: a `DiTModel` of `AdaLNBlock`s, such as `diffusion.sampling_network()` for the
            average's weights. It stays as it is; adapters (LoRA) are merged.
        heads: how many heads each block keeps; None: all.
        mlp: how many units of its MLP each block keeps; None: all.
        depth: how many blocks are kept, in their order; None: all.
        score: what is kept, a `Score`; None: `Magnitude()`.
        block_score: which blocks, if that is another one, such as `BlockInfluence(x, t, y)`.

    Returns:
        A new network, whose configuration says its size.

    Raises:
        ValueError: for more parts than there are, or a network of parts of your own, whose heads
            and units are not known; its blocks are.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 16, 4, 4, num_classes=10)
    >>> smaller = prune(network, heads=2, mlp=32, depth=3)
    >>> len(smaller.blocks), smaller.blocks[0].attention.num_heads
    (3, 2)
    >>> network.count_params(), smaller.count_params()
    (25104, 15480)
    """
    score, block_score = score or Magnitude(), block_score or score or Magnitude()
    _check(network, heads, mlp, depth)
    every = range(len(network.blocks))
    blocks = every if depth is None else _best(block_score.blocks(network), depth)
    kept_heads = None if heads is None else [_best(s, heads) for s in score.heads(network)]
    kept_units = None if mlp is None else [_best(s, mlp) for s in score.units(network)]
    whole = network.copied()  # with adapters merged, and on which nothing else rests
    smaller = type(network).from_config(_config(whole, heads, mlp, blocks))
    _copy_ends(smaller, whole)
    for new, i in zip(smaller.blocks, blocks, strict=True):
        cut: dict[int, np.ndarray] = {}
        if kept_heads is not None:
            cut |= _cut_heads(whole.blocks[i].attention, kept_heads[i])
        if kept_units is not None:
            cut |= _cut_units(whole.blocks[i].mlp, kept_units[i])
        for variable, old in zip(new.weights, whole.blocks[i].weights, strict=True):
            variable.assign(cut.get(id(old), _array(old)))
    return smaller


def _best(scores, count):
    """The places of the highest scores, in their order."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _config(network, heads, mlp, blocks):
    """The configuration of the smaller network."""
    config = {**network.get_config(), "depth": len(blocks)}
    early = sum(i < config["in_context_start"] for i in blocks)
    config["in_context_start"] = min(early, len(blocks) - 1)
    first = network.blocks[0]
    if heads is None and (mlp is None or (config["block"] is None and type(first.mlp) is MLP)):
        return config if mlp is None else {**config, "mlp_ratio": _ratio(first.mlp, mlp)}
    block = save_part(first)
    if heads is not None:
        width = config["hidden_size"]
        size = first.attention.head_size or width // first.attention.num_heads
        block["config"]["num_heads"] = heads
        block["config"]["attention"]["config"] |= {"num_heads": heads, "head_size": size}
        config["num_heads"] = None if width % heads else heads
    if mlp is not None:
        block["config"]["mlp"]["config"]["ratio"] = _ratio(first.mlp, mlp)
    return {**config, "block": block}


def _ratio(mlp, units):
    """The `ratio` of an MLP with that many units: one whose product is not rounded down."""
    width = mlp.mlp_out.kernel.shape[1]
    share = 2 / 3 if isinstance(mlp, SwiGLU) else 1.0
    exact = units / width / share
    return exact if int(width * exact * share) == units else (units + 0.5) / width / share


def _copy_ends(smaller, whole):
    """Everything but the blocks."""
    ends = []
    for network in (smaller, whole):
        inner = {id(v) for block in network.blocks for v in block.weights}
        ends.append([v for v in network.weights if id(v) not in inner])
    for new, old in zip(*ends, strict=True):
        new.assign(_array(old))


def _cut_heads(attention, kept):
    """{id of a variable: its numbers for these heads}"""
    heads, cut = attention.num_heads, {}
    for layer, parts in ((attention.qkv, 3),):
        for variable in layer.weights:
            array = _array(variable)
            array = array.reshape(*array.shape[:-1], parts, heads, -1)[..., kept, :]
            cut[id(variable)] = array.reshape(*array.shape[:-3], -1)
    kernel = _array(attention.projection.kernel)
    rows = kernel.reshape(heads, -1, kernel.shape[-1])[kept]
    return cut | {id(attention.projection.kernel): rows.reshape(-1, kernel.shape[-1])}


def _cut_units(mlp, kept):
    """{id of a variable: its numbers for these units}"""
    count, cut = mlp.mlp_out.kernel.shape[0], {}
    for variable in mlp.mlp_in.weights:
        array = _array(variable)
        array = array.reshape(*array.shape[:-1], -1, count)[..., kept]  # SwiGLU has two
        cut[id(variable)] = array.reshape(*array.shape[:-2], -1)
    return cut | {id(mlp.mlp_out.kernel): _array(mlp.mlp_out.kernel)[kept]}


def _array(variable):
    return ops.convert_to_numpy(variable)


def _with_bias(layer):
    """The kernel of a linear map and, below, its bias."""
    kernel = _array(layer.kernel)
    return kernel if layer.bias is None else np.vstack([kernel, _array(layer.bias)])


def _check(network, heads, mlp, depth):
    if not isinstance(network, DiTModel):
        raise ValueError(f"network must be a DiTModel. Received: network={network!r}")
    if network.quantized:
        raise ValueError("a quantized network cannot be pruned: prune it before quantize()")
    known = all(map(_is_known, network.blocks))
    if (heads is not None or mlp is not None) and not known:
        raise ValueError(
            "heads and units are those of AdaLNBlocks with SelfAttention and MLP or SwiGLU; of "
            f"other blocks give depth alone. Received: block={network.blocks[0]!r}"
        )
    first = network.blocks[0]
    most = {"depth": (depth, len(network.blocks))}
    if known:
        most["heads"] = heads, first.attention.num_heads
        most["mlp"] = mlp, first.mlp.mlp_out.kernel.shape[0]
    for name, (given, there) in most.items():
        if given is not None and not (isinstance(given, (int, np.integer)) and 1 <= given <= there):
            raise ValueError(
                f"{name} must be how many are kept, from 1 to {there}, or None. "
                f"Received: {name}={given!r}"
            )


def _is_known(block):
    return (
        isinstance(block, AdaLNBlock)
        and isinstance(block.attention, SelfAttention)
        and type(block.mlp) in (MLP, SwiGLU)
    )
