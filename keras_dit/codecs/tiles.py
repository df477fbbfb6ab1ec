"""Large images through an autoencoder in tiles, to what the whole gives, in bounded memory.

A convolution looks at a few neighbours of a place: in a tile that is cut with so wide a margin it
gives what it gives of the whole. A group norm looks at the whole, by two numbers of each group,

    mean = Σ nᵢ meanᵢ / Σ nᵢ,   variance = Σ nᵢ (varianceᵢ + (meanᵢ − mean)²) / Σ nᵢ           (1)

over tiles i of nᵢ places. So a network runs in parts, each over all tiles: once for each of its
norms, up to that norm, and once for what comes out, which is kept until the next part has read it.
A part ends where that is small. Attention runs for some places at a time, which look at all.

Reference:
    Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances
    (1979), for (1).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.codecs.autoencoder_kl import Upsampling
from keras_dit.layers import AttentionBlock, Convolution, GroupNorm, ResidualBlock

PAIRS = 2**26  # of a place and one that it looks at, at once, at most


class Tiled:
    """One half of an autoencoder, for an image of any size.

    Args:
        network: that the steps are of.
        steps: what it runs one after the other, layers and other functions of images.
        size: the side of what comes in, as a share of the image's.
        tile_size: in pixels of the image: the side of what is worked on at once.

    Call:
        (H, W, C) -> (H', W', C'), numpy float32.
    """

    def __init__(self, network: Any, steps: Sequence[Callable], size: Fraction, tile_size: int):
        self.network = network
        self.parts: list[Any] = []
        for part, before, after in _parts(steps, size):
            if isinstance(part[0], AttentionBlock):
                self.parts.append(_Attention(network, part[0]))
            else:
                self.parts.append(_Local(network, part, before, after, tile_size))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        values = backend.laid_out(backend.compute_values(self.network, self.network.weights))
        for part in self.parts:
            x = part(values, x)
        return x


def _parts(steps, size) -> Iterator[tuple[list, Fraction, Fraction]]:
    """(steps, size before them, size after them) of each part.

    Attention is a part of its own. Another ends where there are fewer places than the image has
    pixels, and not just after they became more.
    """
    part: list = []
    before = size
    for step in steps:
        alone = isinstance(step, AttentionBlock)
        if alone and part:
            yield part, before, size
            part, before = [], size
        part.append(step)
        size = size * _enlargement(step)
        if alone or (size < 1 and not isinstance(step, Upsampling)):
            yield part, before, size
            part, before = [], size
    if part:
        yield part, before, size


def _enlargement(step):
    """How many times as long a side is after a step."""
    strides = math.prod(layer.strides[0] for layer in _layers(step, Convolution))
    return Fraction(2 if isinstance(step, Upsampling) else 1, strides)


def _layers(step, kind):
    layers = backend.layers_of(step) if isinstance(step, keras.Layer) else ()
    return [layer for layer in layers if isinstance(layer, kind)]


class _Local:
    """A part of convolutions and norms."""

    def __init__(self, network, steps, before, after, tile_size):
        unit = min(before, after)  # tiles begin at a whole place of the side with fewer
        self.enters, self.leaves = int(before / unit), int(after / unit)
        convolutions = [layer for step in steps for layer in _layers(step, Convolution)]
        reach = sum(layer.kernel_size[0] // 2 * layer.strides[0] for layer in convolutions)
        self.margin = math.ceil(reach / max(self.enters, self.leaves))
        self.tile = max(int(tile_size * unit), 4 * self.margin, 1)
        self.norms = sum(len(_layers(step, GroupNorm)) for step in steps)

        def run(values, x, inside, moments):
            with backend.holding(network, values):
                return _run(steps, ops.cast(x, network.compute_dtype), inside, moments)

        self.run = backend.compile_inference(run, backend.jit_compile_convolutions(large=True))

    def __call__(self, values, x):
        sides = [side // self.enters for side in x.shape[:2]]
        rows, columns = (_spans(side, self.tile, self.margin) for side in sides)
        tiles = [(row, column) for row in rows for column in columns]
        moments: list = []
        for _ in range(self.norms):
            found = [self._made(values, x, tile, moments) for tile in tiles]
            counts = [row.count * column.count for row, column in tiles]
            moments.append(_joined(counts, *map(np.stack, zip(*found))))
        result = None
        for tile in tiles:
            (made,) = self._made(values, x, tile, moments)
            if result is None:
                shape = (*(side * self.leaves for side in sides), made.shape[-1])
                result = np.empty(shape, "float32")
            result[_cut(tile, Span.target, self.leaves)] = made[0][
                _cut(tile, Span.inside, self.leaves)
            ]
        return result

    def _made(self, values, x, tile, moments):
        """What comes out of a tile, or, where a norm's moments are not known, those of the tile."""
        source = ops.convert_to_tensor(x[_cut(tile, Span.source, self.enters)][None])
        inside = [ops.convert_to_tensor(span.mask()) for span in tile]
        return [ops.convert_to_numpy(each) for each in self.run(values, source, inside, moments)]


def _run(steps, x, inside, moments):
    """[what the steps make of x], or [mean, variance] of the first norm whose moments lack.

    Args:
        steps: a part.
        x: (1, H, W, C).
        inside: which rows and which columns count, 1 or 0.
        moments: [(mean, variance)] of the first norms.
    """
    walk, answer, moments = _walk(steps, x), None, iter(moments)
    while True:
        try:
            norm, x = walk.send(answer)
        except StopIteration as end:
            return [ops.cast(end.value, "float32")]
        known = next(moments, None)
        if known is None:
            rows, columns = (
                ops.repeat(mask, side // mask.shape[0]) for mask, side in zip(inside, x.shape[1:3])
            )
            return norm.moments(x, rows[:, None] * columns)
        answer = norm.with_moments(x, *known)


def _walk(steps, x):
    """Runs the steps: yields each norm and what it is given, and is sent what comes of that."""
    run = backend.call_layer
    for step in steps:
        if isinstance(step, GroupNorm):
            x = yield step, x
        elif isinstance(step, ResidualBlock):
            h = run(step.conv_1, ops.silu((yield step.norm_1, x)))
            h = run(step.conv_2, ops.silu((yield step.norm_2, h)))
            x = h + (x if step.skip is None else run(step.skip, x))
        else:
            x = run(step, x) if isinstance(step, keras.Layer) else step(x)
    return x


def _joined(counts, means, variances):
    """(1): mean and variance of all places, of those of tiles (tiles, groups)."""
    shares = np.asarray(counts, "float64")[:, None] / sum(counts)
    mean = np.sum(shares * means, axis=0)
    variance = np.sum(shares * (variances + (means - mean) ** 2), axis=0)
    return [ops.convert_to_tensor(each.astype("float32")) for each in (mean, variance)]


class _Attention:
    """A part that is an `AttentionBlock`."""

    def __init__(self, network, step):
        self.groups = step.groups

        def run(values, tokens, every, moments):
            with backend.holding(network, values):
                tokens, every = (ops.cast(x, network.compute_dtype) for x in (tokens, every))
                return ops.cast(step.among(tokens, every, *moments), "float32")

        self.run = backend.compile_inference(run)

    def __call__(self, values, x):
        every = x.reshape(1, -1, x.shape[-1])  # (1, H W, C)
        count = every.shape[1]
        grouped = every.reshape(count, self.groups, -1).astype("float64")
        moments = [
            ops.convert_to_tensor(each(grouped, axis=(0, 2)).astype("float32"))
            for each in (np.mean, np.var)
        ]
        result, given = np.empty_like(every), ops.convert_to_tensor(every)
        size = max(1, min(count, PAIRS // count))
        for start in (*range(0, count - size, size), count - size):
            some = slice(start, start + size)
            made = self.run(values, ops.convert_to_tensor(every[:, some]), given, moments)
            result[:, some] = ops.convert_to_numpy(made)
        return result.reshape(x.shape)


class Span(NamedTuple):
    """One side of a tile: what is cut, start … stop, and that of it which counts, first … last."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def count(self):
        return self.last - self.first

    def mask(self):
        """1 where a place counts, else 0: (stop − start,)."""
        places = np.arange(self.start, self.stop)
        return ((places >= self.first) & (places < self.last)).astype("float32")

    def source(self, unit):
        """What is cut of a whole whose places are `unit` to one."""
        return slice(unit * self.start, unit * self.stop)

    def target(self, unit):
        """What it fills of a whole."""
        return slice(unit * self.first, unit * self.last)

    def inside(self, unit):
        """What counts of what came out of the tile."""
        return slice(unit * (self.first - self.start), unit * (self.last - self.start))


def _cut(tile, method, unit):
    return tuple(method(span, unit) for span in tile)


def _spans(side, tile, margin):
    """Spans of one length that cover a side; what counts is a margin away from where one is cut."""
    count = math.ceil((side - 2 * margin) / (tile - 2 * margin)) if side > tile else 1
    length = math.ceil((side - 2 * margin) / count) + 2 * margin if count > 1 else side
    starts = [round(place) for place in np.linspace(0, side - length, count)]
    borders = [0, *((a + length + b) // 2 for a, b in itertools.pairwise(starts)), side]
    return [
        Span(start, start + length, first, last)
        for start, (first, last) in zip(starts, itertools.pairwise(borders))
    ]
