"""The kernel distance of two sets of features (with Inception's, the KID), in numpy float64.

The squared maximum mean discrepancy under the polynomial kernel of degree 3, without bias:

    k(x, y) = (x·y / D + 1)³                                                                (1)
    MMD² = Σ_{i≠j} [k(x_i, x_j) + k(y_i, y_j)] / (m (m − 1)) − 2 Σ_{ij} k(x_i, y_j) / m²     (2)

averaged over subsets of m images of each set. Unlike the Fréchet distance its mean does not depend
on the number of images; of two sets of one distribution it is 0, so that it may be below.

Reference: Bińkowski et al., Demystifying MMD GANs (2018).
"""

from typing import Any

import numpy as np

from keras_dit.evaluation.classes import Spread
from keras_dit.evaluation.scores import flat_features

__all__ = ["kernel_distance"]


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1.0) ** 3  # (1)


def _discrepancy(x, y):
    m = len(x)
    own = sum(k.sum() - np.trace(k) for k in (_kernel(x, x), _kernel(y, y)))
    return own / (m * (m - 1)) - 2 * _kernel(x, y).mean()  # (2)


def kernel_distance(
    features_a: Any,
    features_b: Any,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Spread:
    """The squared kernel distance between two sets of features.

    With Inception's features this is the KID. The subsets are drawn as torch-fidelity draws them,
    and its seed is the default, so that the same features give the same number.

    Args:
        features_a, features_b: (N, ...) numbers; flattened to (N, D).
        subsets: how many subsets are drawn.
        subset_size: m, images of each set in a subset, drawn without repetition.
        seed: integer of 0 or more, below 2**32.

    Returns:
        (mean, std) over the subsets.

    Raises:
        ValueError: on shapes that do not agree, numbers that are not finite, or sets of fewer
            images than subset_size.

    Reference: Bińkowski et al., 2018; see the head of this module.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(200, 4))
    >>> near = kernel_distance(features, features, subsets=10, subset_size=100)
    >>> far = kernel_distance(features, features + 1.0, subsets=10, subset_size=100)
    >>> near.mean < far.mean
    True
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            "subsets must be 1 or more, and subset_size 2 or more. "
            f"Received: subsets={subsets}, subset_size={subset_size}"
        )
    sets = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        flat = flat_features(name, features, 2)
        if len(flat) < subset_size:
            raise ValueError(
                f"subset_size must be at most the number of images of {name}, {len(flat)}. "
                f"Received: subset_size={subset_size}"
            )
        sets.append(flat)
    a, b = sets
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            "both sets must have as many dimensions. Received: "
            f"features_a with {a.shape[1]}, features_b with {b.shape[1]}"
        )
    draws = np.random.RandomState(seed)  # frozen by numpy: the same numbers in every version
    found = []
    for _ in range(subsets):
        x = a[draws.choice(len(a), subset_size, replace=False)]
        y = b[draws.choice(len(b), subset_size, replace=False)]
        found.append(_discrepancy(x, y))
    return Spread(float(np.mean(found)), float(np.std(found)))
