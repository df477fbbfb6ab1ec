"""Sampling that leaves out most of a network where little has changed since it was last run.

From one evaluation of a run to the next a network's blocks add nearly the same to its tokens. So
the first block is run always, and instead of the others now and then what they added last,

    tokens_L = tokens_1 + d′,   d′ = tokens_L′ − tokens_1′,                                 (1)

with ′ for the last evaluation that ran them. A cache says when. It decides on each sample alone,
so that an image does not depend on those beside it; the blocks are left out, and time is saved,
where no sample of a batch needs them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras import ops

from keras_dit.networks import DiTModel
from keras_dit.serialization import Configurable, number, register

__all__ = ["Cache", "CachedNetwork", "FirstBlockCache", "Memory", "PeriodicCache", "Reuse"]


class Reuse(NamedTuple):
    """What a cache did in a batch, as shares of the evaluations of the network.

    Attributes:
        reused: at which (1) was used, the mean over the samples.
        skipped: at which it was used for all samples, so that the blocks were not run.
    """

    reused: float
    skipped: float

    def __str__(self):
        return f"{self.reused:.0%} reused, {self.skipped:.0%} skipped"


class Memory(NamedTuple):
    """What an evaluation leaves to the next, tensors.

    Attributes:
        reused, skipped: how many evaluations so far, as in `Reuse`, float32.
        age: how many evaluations the next two have seen, int32.
        first: what the first block added to the tokens when the others were last run, (B, T, D);
            None before the first evaluation.
        others: d′ of (1), (B, T, D), or None.
    """

    reused: Any
    skipped: Any
    age: Any
    first: Any = None
    others: Any = None

    @classmethod
    def empty(cls) -> "Memory":
        """That before a run."""
        zero = ops.zeros((), "float32")
        return cls(zero, zero, ops.zeros((), "int32"))

    def fitting(self, shape: tuple, dtype: str) -> "Memory":
        """The same with tensors in all places: of age 0 unless it has seen tokens of that shape."""
        if self.first is not None and tuple(self.first.shape) == tuple(shape):
            return self
        nothing = ops.zeros(shape, dtype)
        return self._replace(age=ops.zeros((), "int32"), first=nothing, others=nothing)


@dataclass(frozen=True)
class Cache(Configurable):
    """When (1) stands for a network's blocks. Subclasses are frozen dataclasses.

    Args:
        report: called with the `Reuse` of each finished batch; None: nothing is.
    """

    report: Callable | None = field(default=None, kw_only=True)

    example = "caching.PeriodicCache(2)"

    def keeps(self, memory: Memory, first: Any) -> Any:
        """Which samples do without their blocks.

        Args:
            memory: a `Memory` with tensors in all places; of age 0 it holds zeros.
            first: what the first block adds now, (B, T, D).

        Returns:
            bool, (B, 1, 1); false for all at age 0.
        """
        raise NotImplementedError

    def finish(self, memory: Memory, evaluations: int) -> Reuse:
        """The `Reuse` of a batch that has ended with this memory, which is reported too."""
        counts = memory.reused, memory.skipped
        reuse = Reuse(*(float(ops.convert_to_numpy(n)) / evaluations for n in counts))
        if self.report is not None:
            self.report(reuse)
        return reuse


@register
@dataclass(frozen=True)
class FirstBlockCache(Cache):
    """As long as a sample's first block adds nearly the same, with r for what it adds:

        mean |r − r′| < threshold · mean |r′|                                               (2)

    The samples of a batch differ in when that ends, and then the blocks are run for all of them:
    with many at once little time is saved.

    Args:
        threshold: 0 reuses nothing; 0.05 to 0.2 are usual.

    Raises:
        ValueError: if it is no finite number of 0 or more.

    Example:

    >>> # diffusion.generate(labels=[3, 7], cache=FirstBlockCache())
    >>> issubclass(FirstBlockCache, Cache)
    True

    Reference:
        Liu et al., Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model (2025),
        which compares what the first block is given.
    """

    threshold: float = number(0.1)

    def __post_init__(self):
        number = isinstance(self.threshold, (int, float))
        if not number or not 0 <= self.threshold < math.inf:
            raise ValueError(
                "threshold must be a finite number of 0 or more. "
                f"Received: threshold={self.threshold!r}"
            )

    def keeps(self, memory: Any, first: Any) -> Any:
        now, then = ops.cast(first, "float32"), ops.cast(memory.first, "float32")
        change = ops.mean(ops.abs(now - then), axis=(1, 2), keepdims=True)
        return change < self.threshold * ops.mean(ops.abs(then), axis=(1, 2), keepdims=True)  # (2)


@register
@dataclass(frozen=True)
class PeriodicCache(Cache):
    """At all evaluations but every n-th: the same for all samples, so that time is saved always.

    Args:
        every: n; 1 reuses nothing.

    Raises:
        ValueError: if it is no integer of 1 or more.

    Reference:
        Selvaraju et al., FORA: Fast-Forward Caching in Diffusion Transformer Acceleration (2024),
        which reuses what each attention and each MLP adds.
    """

    every: int = number(2)

    def __post_init__(self):
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(
                f"every must be an integer of 1 or more. Received: every={self.every!r}"
            )

    def keeps(self, memory: Any, first: Any) -> Any:
        between = ops.mod(memory.age, self.every) != 0
        return ops.broadcast_to(between, (first.shape[0], 1, 1))


class CachedNetwork:
    """A network for the evaluations of a step, with the memory of those before.

    All but its call is the network's own.

    Args:
        network: a `DiTModel` of 2 blocks or more.
        cache: a `Cache`.
        memory: a `Memory`; after a call the attribute holds the next one.
    """

    def __init__(self, network: Any, cache: Any, memory: Any):
        self.network = network
        self.cache = cache
        self.memory = memory

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, x: Any, t: Any, y: Any = None, training: bool | None = False) -> Any:
        network = self.network
        size = tuple(x.shape[1:3])
        tokens, conditioning = network.embed(x, t, y)  # (B, T, D), (B, D)
        head = network.run_blocks(network.blocks[:1], tokens, conditioning, training, size)
        first = head - tokens
        memory = self.memory.fitting(first.shape, first.dtype)
        kept = self.cache.keeps(memory, first)
        all_kept = ops.all(kept)

        def reuse():
            return head + memory.others  # (1)

        def compute():
            tail = network.run_blocks(network.blocks[1:], head, conditioning, training, size)
            return ops.where(kept, reuse(), tail)

        tail = ops.cond(all_kept, reuse, compute)  # (B, T, D)
        self.memory = memory._replace(
            reused=memory.reused + ops.mean(ops.cast(kept, "float32")),
            skipped=memory.skipped + ops.cast(all_kept, "float32"),
            age=memory.age + 1,
            first=ops.where(kept, memory.first, first),
            others=ops.where(kept, memory.others, tail - head),
        )
        return network.image(tail, conditioning, size)


def check_network(network: Any) -> None:
    """Raise ValueError unless it is one that a cache can be used with."""
    if not isinstance(network, DiTModel):
        raise ValueError(
            f"cache needs a DiTModel as the network. Received: a {type(network).__name__}"
        )
    if len(network.blocks) < 2:
        raise ValueError("cache needs a network of 2 blocks or more. Received: depth=1")
