"""A linear map of patches for patches of another size or other channels.

Images are resized by a matrix, image′ = R image: along each side bilinearly, along the channels by
repeating grey or averaging colours. A map into the network, w, and one out of it, u, become

    w′ = (Rᵀ)⁺ w    so that ⟨R x, w′⟩ = ⟨x, w⟩: a patch that is made larger gives the same token;
    u′ = R u        so that the output is that of before, resized.

Reference:
    Beyer et al.: FlexiViT: One Model for All Patch Sizes (2023), section 3.4.
"""

import numpy as np

__all__ = ["bilinear", "colours", "input_map", "output_map", "table"]


def bilinear(size: int, new: int) -> np.ndarray:
    """The matrix (new, size) that resizes a line of pixels, their centres aligned at the ends.

    Example:

    >>> bilinear(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    place = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(size)))


def colours(channels: int, new: int) -> np.ndarray | None:
    """The matrix (new, channels) from one kind of image to another; None: there is none.

    Grey is repeated to three colours, and three colours are averaged to grey.

    Example:

    >>> colours(1, 3).tolist(), colours(4, 3)
    ([[1.0], [1.0], [1.0]], None)
    """
    if channels == new:
        return np.eye(channels)
    return {(1, 3): np.ones((3, 1)), (3, 1): np.full((1, 3), 1 / 3)}.get((channels, new))


def input_map(kernel: np.ndarray, patch: int, new: int, colour: np.ndarray) -> np.ndarray:
    """(Rᵀ)⁺ w.

    Args:
        kernel: w, (p p C, D).
        patch, new: side of a patch, before and after.
        colour: of the channels, (C', C).

    Returns:
        (p' p' C', D).

    Example:

    >>> input_map(np.ones((4, 8)), 2, 4, np.ones((3, 1))).shape
    (48, 8)
    """
    side, tone = np.linalg.pinv(bilinear(patch, new).T), np.linalg.pinv(colour.T)
    patches = kernel.reshape(patch, patch, colour.shape[1], -1)
    resized = np.einsum("ai,bj,ck,ijkd->abcd", side, side, tone, patches)
    return resized.reshape(-1, kernel.shape[1])


def output_map(kernel: np.ndarray, patch: int, new: int, colour: np.ndarray) -> np.ndarray:
    """R u, for each of the groups of channels that an output has.

    Args:
        kernel: u, (D, p p k C), or a bias (p p k C,); k is 2 where half of the output says where
            the variance lies.
        patch, new: side of a patch, before and after.
        colour: of the channels of a group, (C', C).

    Returns:
        (D, p' p' k C'), or (p' p' k C',).

    Example:

    >>> output_map(np.ones((8, 4)), 2, 4, np.ones((3, 1))).shape
    (8, 48)
    """
    side, lead = bilinear(patch, new), kernel.shape[:-1]
    patches = kernel.reshape(-1, patch, patch, kernel.shape[-1] // patch**2)
    groups = np.eye(patches.shape[-1] // colour.shape[1])
    tone = np.kron(groups, colour)
    resized = np.einsum("ai,bj,ck,dijk->dabc", side, side, tone, patches)
    return resized.reshape(*lead, -1)


def table(values: np.ndarray, grid: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """A table of a vector for each place of a grid, interpolated for another grid.

    Args:
        values: (rows columns, D), row by row.
        grid, new: rows and columns, before and after.

    Returns:
        (rows' columns', D).

    Example:

    >>> table(np.array([[0.0], [1.0]]), (1, 2), (1, 4)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    down, across = (bilinear(*sides) for sides in zip(grid, new))
    places = values.reshape(*grid, -1)
    return np.einsum("ai,bj,ijd->abd", down, across, places).reshape(-1, values.shape[-1])
