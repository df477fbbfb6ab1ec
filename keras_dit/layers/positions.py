"""Where a token lies on the grid of an image: fixed sines and cosines, and rotary positions.

For a coordinate p and width m:  [sin(p ω_i), cos(p ω_i)],  ω_i = 10000^(−i / (m/2)),  i < m/2.
A token's position is that of its column followed by that of its row, each of width D/2
(Vaswani et al. 2017, in the two-dimensional form of masked autoencoders, He et al. 2021).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.serialization import register


def grid_positions(rows: int, columns: int) -> np.ndarray:
    """The row and the column of each token of a grid: float32 (rows * columns, 2), row by row.

    Example:

    >>> grid_positions(2, 2).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return np.indices((rows, columns)).reshape(2, -1).T.astype("float32")


def sincos_positions(
    rows: int, columns: int, hidden_size: int, scale: float | tuple[float, float] = 1.0
) -> np.ndarray:
    """Position embedding of a grid of tokens.

    Args:
        rows, columns: of the grid.
        hidden_size: width D of a token, a multiple of 4.
        scale: what rows and columns are multiplied by, one number or two: 0.5 has twice as many
            tokens lie where those that a network was trained on did.

    Returns:
        numpy float32 (rows * columns, D), row by row, the column's half first.

    Raises:
        ValueError: if hidden_size is not a multiple of 4.

    Example:

    >>> sincos_positions(2, 2, 16).shape
    (4, 16)
    """
    if hidden_size % 4:
        raise ValueError(
            "hidden_size must be a multiple of 4 for sine and cosine positions. "
            f"Received: hidden_size={hidden_size}"
        )
    row, column = grid_positions(rows, columns).T * np.broadcast_to(scale, 2)[:, None]
    halves = [_sincos(axis, hidden_size // 2) for axis in (column, row)]
    return np.concatenate(halves, axis=1).astype("float32")


def _sincos(position, width):
    frequency = 10000.0 ** (-np.arange(width // 2, dtype="float64") / (width / 2))
    angle = position[:, None] * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


@register
class Rotary(keras.layers.Layer):
    """Rotary positions in two dimensions: attention then sees how far apart two tokens lie.

    Each pair of neighbouring numbers of a head, (x₁, x₂), is turned by an angle: the pairs of the
    first half of the head by those of the token's row, of the second half by its column's,

        (x₁, x₂) ← (x₁ cos a − x₂ sin a, x₂ cos a + x₁ sin a),   a = p θ^(−i / (d/4)),   i < d/4.

    Args:
        theta: θ; a larger one tells more distant tokens apart.
        scale: what rows and columns are multiplied by, one number or two: 0.5 has twice as many
            tokens lie where those that a network was trained on did.

    Call:
        queries or keys (B, H, T, d), d a multiple of 4, positions (T, 2): row and column.
        -> (B, H, T, d).

    Raises:
        ValueError: if a head's width is not a multiple of 4, or without positions.

    Example:

    >>> Rotary()(np.ones((1, 2, 6, 8)), grid_positions(2, 3)).shape
    (1, 2, 6, 8)

    Reference:
        Su et al., RoFormer (2021), in the two-dimensional form of EVA-02 (Fang et al. 2023).
    """

    def __init__(self, theta: float = 10000.0, scale: float | tuple[float, float] = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.theta = theta
        self.scale = tuple(float(side) for side in np.broadcast_to(scale, 2))

    def build(self, x_shape: tuple, positions_shape: Any = None) -> None:
        if x_shape[-1] % 4:
            raise ValueError(
                "rotary positions need heads whose width is a multiple of 4. "
                f"Received: a head of width {x_shape[-1]}"
            )

    def call(self, x: Any, positions: Any = None) -> Any:
        if positions is None:
            raise ValueError("rotary positions need the tokens' positions. Received: None")
        cos, sin = self._turns(positions, x.shape[-1] // 4)  # (T, d/2, 1)
        shape = ops.shape(x)
        pairs = ops.reshape(ops.cast(x, "float32"), (-1, *shape[1:-1], x.shape[-1] // 2, 2))
        first, second = ops.split(pairs, 2, axis=-1)
        turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return ops.cast(ops.reshape(turned, (-1, *shape[1:])), x.dtype)

    def _turns(self, positions, count):
        frequency = ops.convert_to_tensor(self._frequencies(count), "float32")
        places = ops.cast(positions, "float32") * ops.convert_to_tensor(self.scale, "float32")
        angle = ops.expand_dims(places, -1) * frequency  # (T, 2, d/4)
        angle = ops.reshape(angle, (-1, 2 * count, 1))
        return ops.cos(angle), ops.sin(angle)

    def _frequencies(self, count):
        return self.theta ** (-np.arange(count, dtype="float64") / count)

    def angles(self, positions: np.ndarray, count: int) -> np.ndarray:
        """By how much each pair of a head's numbers is turned, numpy float64 (T, 2 count).

        Args:
            positions: (T, 2), row and column.
            count: a quarter of the head's width.
        """
        places = positions * np.array(self.scale)
        return (places[..., None] * self._frequencies(count)).reshape(-1, 2 * count)

    def compute_output_shape(self, x_shape: tuple, positions_shape: Any = None) -> tuple:
        return x_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "theta": self.theta, "scale": list(self.scale)}
