"""How well images come back from an autoencoder.

MSE = mean of (x − x̂)²,   PSNR = 10 log₁₀(4 / MSE) in dB, of images in [−1, 1]           (1)
"""

import numpy as np

__all__ = ["psnr"]


def psnr(images: np.ndarray, references: np.ndarray) -> float:
    """The peak signal-to-noise ratio, a mean over images, each with its own error as in (1).

    Args:
        images: (N, H, W, C) in [-1, 1], as they came back.
        references: the same as they were.

    Returns:
        decibels; infinite where an image came back exactly.

    Raises:
        ValueError: for shapes that differ, or no images.

    Example:
        >>> round(psnr(np.zeros((1, 2, 2, 1)), np.full((1, 2, 2, 1), 0.2)), 6)
        20.0
    """
    images, references = np.asarray(images, "float64"), np.asarray(references, "float64")
    if images.shape != references.shape or images.ndim != 4 or not images.size:
        raise ValueError(
            "images and references must be of one shape (N, H, W, C). "
            f"Received: {images.shape} and {references.shape}"
        )
    errors = np.mean((images - references) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(4 / errors)))  # (1)
