"""Scores of generated images, in numpy float64.

The squared Fréchet distance of two Gaussians (Dowson, Landau: The Fréchet distance between
multivariate normal distributions, 1982; as a score of images: Heusel et al., GANs Trained by a
Two Time-Scale Update Rule, 2017):

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁) + tr(Σ₂) − 2 tr((Σ₁ Σ₂)^½)                                    (1)

Σ₁ Σ₂ is not symmetric, but its eigenvalues are the squared singular values of Σ₁^½ Σ₂^½:

    tr((Σ₁ Σ₂)^½) = ‖Σ₁^½ Σ₂^½‖_*, the sum of these singular values                         (2)

which needs roots of symmetric matrices only and is defined for singular ones too.
"""

import numpy as np

__all__ = ["frechet_distance", "frechet_distance_from_moments", "label_agreement"]

_CHUNK_ELEMENTS = 2**24  # distances held at once: 128 MiB


def flat_features(name, values, least):
    """The samples as float64 (N, D).

    Args:
        name: what errors call them.
        values: (N, ...) numbers.
        least: of N.

    Raises:
        ValueError: for fewer of them, or numbers that are not finite.
    """
    values = np.asarray(values)
    if values.ndim < 2 or len(values) < least or values.size == 0:
        raise ValueError(
            f"{name} must be of shape (N, ...) with N of at least {least}. "
            f"Received: shape={values.shape}"
        )
    flat = values.reshape(len(values), -1).astype("float64")
    if not np.isfinite(flat).all():
        raise ValueError(f"{name} must be finite. Received: NaN or infinite values")
    return flat


def _checked_labels(name, labels, count):
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {count} integers, one for each image. "
            f"Received: shape={labels.shape}, dtype={labels.dtype}"
        )
    return labels


def _nearest(points, references):
    """The index of the reference nearest to each point, (N,), in bounded memory."""
    # ‖p − r‖² = ‖p‖² − 2 p·r + ‖r‖², of which ‖p‖² does not decide.
    norms = np.einsum("rd,rd->r", references, references)
    rows = max(1, _CHUNK_ELEMENTS // len(references))
    found = [
        np.argmin(norms - 2 * points[i : i + rows] @ references.T, axis=1)
        for i in range(0, len(points), rows)
    ]
    return np.concatenate(found)


def label_agreement(images, labels, reference_images, reference_labels):
    """The share of images whose nearest reference image has the label that was asked for.

    The nearest is by the Euclidean distance of the pixels (1-NN): a cheap judge of images as
    simple as the embedded digits, and no judge of photographs. Take as reference what the model
    was not trained on, or a copy of a training image counts as a success.

    Args:
        images: (N, ...) images to judge, such as (N, H, W, C) in [-1, 1].
        labels: (N,) integers, the labels asked for.
        reference_images: (R, ...) real images, in the same range.
        reference_labels: (R,) integers.

    Returns:
        float, 0 to 1.

    Raises:
        ValueError: on no images, values that are not finite, or shapes that do not agree.

    Example:

    >>> images, labels = keras_dit.datasets.load_digits()
    >>> round(label_agreement(images[:100], labels[:100], images[1000:], labels[1000:]), 2)
    0.92
    """
    if np.shape(images)[1:] != np.shape(reference_images)[1:]:
        raise ValueError(
            "images and reference_images must be of one shape after the first axis. "
            f"Received: {np.shape(images)}, {np.shape(reference_images)}"
        )
    points = flat_features("images", images, 1)
    references = flat_features("reference_images", reference_images, 1)
    labels = _checked_labels("labels", labels, len(points))
    reference_labels = _checked_labels("reference_labels", reference_labels, len(references))
    # Distances do not change with the origin; near the mean, less is lost to cancellation.
    centre = references.mean(axis=0)
    nearest = _nearest(points - centre, references - centre)
    return float(np.mean(reference_labels[nearest] == labels))


def _root(covariance):
    """The symmetric root of a symmetric positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    # Rounding leaves ±1e−16 of a zero eigenvalue, whose root would be 1e−8.
    rounding = len(values) * np.finfo("float64").eps * np.abs(values).max()
    return (vectors * np.sqrt(np.where(values > rounding, values, 0.0))) @ vectors.T


def _checked_moments(name, mean, covariance):
    mean, covariance = np.asarray(mean, "float64"), np.asarray(covariance, "float64")
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(
            f"mean_{name} must be of shape (D,) and cov_{name} of shape (D, D). "
            f"Received: {mean.shape}, {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"mean_{name} and cov_{name} must be finite")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()):
        raise ValueError(f"cov_{name} must be symmetric")
    return mean, (covariance + covariance.T) / 2


def frechet_distance_from_moments(mean_a, cov_a, mean_b, cov_b):
    """The squared Fréchet distance of two Gaussians given by their moments.

    Args:
        mean_a, mean_b: (D,) floats.
        cov_a, cov_b: (D, D) floats, symmetric and positive semidefinite; may be singular.

    Returns:
        float of at least 0, in squared units of the features.

    Raises:
        ValueError: on shapes that do not agree, values that are not finite, or a matrix that is
            not symmetric.

    Example:

    >>> one = np.eye(2)
    >>> frechet_distance_from_moments(np.zeros(2), one, np.ones(2), 4 * one)  # 2 + 2 (1 - 2)²
    4.0

    Reference: Dowson, Landau, 1982; see the head of this module.
    """
    mean_a, cov_a = _checked_moments("a", mean_a, cov_a)
    mean_b, cov_b = _checked_moments("b", mean_b, cov_b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(
            f"both Gaussians must have as many dimensions. Received: {mean_a.size}, {mean_b.size}"
        )
    overlap = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()  # (2)
    difference = mean_a - mean_b
    squared = difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap  # (1)
    return max(float(squared), 0.0)  # rounding: d² of equal Gaussians may come out as −1e−16


def frechet_distance(features_a, features_b):
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    With Inception's features this is the FID; with pixels it compares means and covariances of
    simple images. It is biased upwards by few samples, so compare sets of equal sizes.

    Args:
        features_a, features_b: (N, ...) numbers with N of at least 2; flattened to (N, D).

    Returns:
        float of at least 0, in squared units of the features.

    Raises:
        ValueError: on shapes that do not agree, too few samples, or values that are not finite.

    Reference: Heusel et al., 2017; see the head of this module.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(1000, 4))
    >>> round(frechet_distance(features, features + 1.0), 4)  # the means are 2 apart
    4.0
    """
    moments = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        flat = flat_features(name, features, 2)
        moments += [flat.mean(axis=0), np.atleast_2d(np.cov(flat, rowvar=False))]
    return frechet_distance_from_moments(*moments)
