"""Fixed two-dimensional sine and cosine positions.

For a coordinate p and width m:  [sin(p ω_i), cos(p ω_i)],  ω_i = 10000^(−i / (m/2)),  i < m/2.
A token's position is that of its column followed by that of its row, each of width D/2
(Vaswani et al. 2017, in the two-dimensional form of masked autoencoders, He et al. 2021).
"""

import numpy as np


def sincos_positions(rows, columns, hidden_size):
    """Position embedding of a grid of tokens.

    Args:
        rows, columns: of the grid.
        hidden_size: width D of a token, a multiple of 4.

    Returns:
        numpy float32 (rows * columns, D), row by row, the column's half first.

    Raises:
        ValueError: if hidden_size is not a multiple of 4.
    """
    if hidden_size % 4:
        raise ValueError(
            "hidden_size must be a multiple of 4 for sine and cosine positions. "
            f"Received: hidden_size={hidden_size}"
        )
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    halves = [_sincos(axis.reshape(-1), hidden_size // 2) for axis in (column, row)]
    return np.concatenate(halves, axis=1).astype("float32")


def _sincos(position, width):
    frequency = 10000.0 ** (-np.arange(width // 2, dtype="float64") / (width / 2))
    angle = position[:, None] * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
