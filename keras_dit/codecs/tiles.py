"""Large images in tiles that overlap, so that memory does not grow with the image.

    image = Σ w · tile / Σ w,   w = min(1, distance to the tile's edge / overlap) in each direction

Norms and attention of an autoencoder look at a whole image, and in a tile at that tile alone: what
is joined comes near to what the whole would give, and is not the same.
"""

import math
from dataclasses import dataclass

import numpy as np

OVERLAP = 0.25  # of a tile with the next one, at least


@dataclass(frozen=True)
class Tiling:
    """How latents of that size, or images of a multiple of it, are cut and joined again.

    Args:
        height, width: of the latents.
        tile: the most that a side of a tile is.

    Example:

    >>> tiling, image = Tiling(10, 4, 4), np.random.rand(20, 8, 3)
    >>> tiling.cut(image, 2).shape
    (3, 8, 8, 3)
    >>> bool(np.allclose(tiling.joined(tiling.cut(image, 2), 2), image))
    True
    """

    height: int
    width: int
    tile: int

    def cut(self, image: np.ndarray, unit: int) -> np.ndarray:
        """The tiles (n, ...) of an image (height unit, width unit, C), all of one size."""
        rows, columns = self._shape(unit)
        return np.stack([image[y : y + rows, x : x + columns] for y, x in self._corners(unit)])

    def joined(self, tiles: np.ndarray, unit: int) -> np.ndarray:
        """The image (height unit, width unit, C), float32, that tiles make."""
        rows, columns = self._shape(unit)
        weight = _ramp(rows, unit)[:, None, None] * _ramp(columns, unit)[:, None]
        total = np.zeros((self.height * unit, self.width * unit, tiles.shape[-1]), "float32")
        weights = np.zeros((*total.shape[:2], 1), "float32")
        for (y, x), tile in zip(self._corners(unit), tiles, strict=True):
            total[y : y + rows, x : x + columns] += weight * tile
            weights[y : y + rows, x : x + columns] += weight
        return total / weights

    def _shape(self, unit):
        return min(self.tile, self.height) * unit, min(self.tile, self.width) * unit

    def _corners(self, unit):
        rows, columns = (_starts(side, self.tile) for side in (self.height, self.width))
        return [(unit * y, unit * x) for y in rows for x in columns]


def _starts(side, tile):
    """Where tiles begin that cover a side evenly, each over at least a share of the next."""
    if side <= tile:
        return [0]
    overlap = math.ceil(OVERLAP * tile)
    count = math.ceil((side - overlap) / max(tile - overlap, 1))
    return [round(place) for place in np.linspace(0, side - tile, count)]


def _ramp(length, unit):
    """w along a side: it rises over the overlap, and falls."""
    overlap = max(math.ceil(OVERLAP * length / unit) * unit, 1)
    edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.minimum(edge / overlap, 1.0).astype("float32")
