"""Laws of keras_dit.metrics: closed forms, invariances, and routes that share no code."""

import numpy as np
import pytest

from keras_dit import datasets
from keras_dit.evaluation import scores as metrics


def covariance(dimensions, seed, rank=None):
    factor = np.random.default_rng(seed).normal(size=(dimensions, rank or 2 * dimensions))
    return factor @ factor.T / factor.shape[1]


def denman_beavers(matrix, steps=60):
    """The principal root of any matrix without negative eigenvalues (Denman, Beavers, 1976)."""
    y, z = matrix, np.eye(len(matrix))
    for _ in range(steps):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y


def distance(cov_a, cov_b, shift=0.0):
    zero = np.zeros(len(cov_a))
    return metrics.frechet_distance_from_moments(zero, cov_a, zero + shift, cov_b)


def test_one_dimension_has_a_closed_form():
    """d² = (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    found = metrics.frechet_distance_from_moments([1.0], [[9.0]], [3.0], [[4.0]])
    assert found == pytest.approx(2.0**2 + (3.0 - 2.0) ** 2, rel=1e-12)


def test_covariances_that_commute_have_a_closed_form():
    """Shared axes: d² = Σ (√λ₁ − √λ₂)²."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    first, second = np.array([[1, 2, 3, 4, 0, 0.5], [4, 0, 9, 1, 0, 0.1]])
    found = distance(axes * first @ axes.T, axes * second @ axes.T, shift=0.5)
    expected = 6 * 0.25 + np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dimensions", [2, 5, 20])
def test_covariances_that_do_not_commute_agree_with_two_other_routes(dimensions):
    a, b = covariance(dimensions, 1), covariance(dimensions, 2)
    assert np.abs(a @ b - b @ a).max() > 0.1
    by_root = np.trace(a + b - 2 * denman_beavers(a @ b))
    by_eigenvalues = np.trace(a + b) - 2 * np.sum(np.sqrt(np.linalg.eigvals(a @ b).real))
    assert by_root == pytest.approx(by_eigenvalues, rel=1e-9)
    assert distance(a, b) == pytest.approx(by_root, rel=1e-9)


def test_singular_covariances():
    """Two lines u and v: the root of their product has the trace |u·v|."""
    u, v = np.random.default_rng(0).normal(size=(2, 8))
    expected = u @ u + v @ v - 2 * abs(u @ v)
    assert distance(np.outer(u, u), np.outer(v, v)) == pytest.approx(expected, rel=1e-6)
    assert distance(np.zeros((8, 8)), np.outer(v, v)) == pytest.approx(v @ v, rel=1e-12)


@pytest.mark.parametrize("rank", [40, 7])
def test_the_distance_to_itself_is_zero(rank):
    a = covariance(20, 3, rank)
    assert 0.0 <= distance(a, a) < 1e-10 * np.trace(a)


def test_symmetric_and_invariant_under_rotation():
    a, b = covariance(7, 1), covariance(7, 2)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(7, 7)))[0]
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-10)
    assert distance(turn @ a @ turn.T, turn @ b @ turn.T) == pytest.approx(distance(a, b), rel=1e-9)


def test_it_grows_with_the_square_of_the_scale():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) * [1, 2, 3, 4]
    once = metrics.frechet_distance(a, b)
    assert metrics.frechet_distance(10 * a, 10 * b) == pytest.approx(100 * once, rel=1e-9)


def test_samples_are_reduced_to_their_moments():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 2, 3, 1)), rng.normal(size=(40, 2, 3, 1)) + 1
    flat_a, flat_b = a.reshape(30, 6), b.reshape(40, 6)
    expected = metrics.frechet_distance_from_moments(
        flat_a.mean(0),
        (flat_a - flat_a.mean(0)).T @ (flat_a - flat_a.mean(0)) / 29,
        flat_b.mean(0),
        (flat_b - flat_b.mean(0)).T @ (flat_b - flat_b.mean(0)) / 39,
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert metrics.frechet_distance(a + 5, a) == pytest.approx(6 * 25, rel=1e-9)


def test_fewer_samples_than_dimensions():
    """A copy is at distance 0, a shifted copy at the square of the shift."""
    a = np.random.default_rng(0).normal(size=(10, 64))
    assert metrics.frechet_distance(a, a) < 1e-9
    assert metrics.frechet_distance(a, a + 0.1) == pytest.approx(0.64, rel=1e-9)


def test_one_feature_is_enough():
    found = metrics.frechet_distance(np.array([[0.0], [2.0]]), np.array([[5.0], [7.0]]))
    assert found == pytest.approx(25)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.zeros((1, 3)), r"features_a must be of shape \(N, ...\) with N of at least 2"),
        (np.zeros(3), r"features_a must be of shape .* Received: shape=\(3,\)"),
        (np.full((4, 3), np.nan), "features_a must be finite"),
        (np.zeros((4, 2)), "as many dimensions. Received: 2, 3"),
    ],
)
def test_frechet_refuses_bad_features(a, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(a, np.ones((4, 3)))


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        ([0.0, 0.0], np.eye(3), r"mean_b must be of shape \(D,\) and cov_b of shape \(D, D\)"),
        ([0.0, np.inf], np.eye(2), "mean_b and cov_b must be finite"),
        ([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], "cov_b must be symmetric"),
    ],
)
def test_frechet_refuses_bad_moments(mean, cov, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance_from_moments([0.0, 0.0], np.eye(2), mean, cov)


REFERENCE = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_agreement_of_points_made_by_hand():
    points = np.array([[1.0, 1.0], [9.0, 1.0], [4.0, 1.0], [1.0, 6.0]])  # nearest: 0, 1, 0, 2
    for labels, expected in [([5, 6, 5, 7], 1.0), ([5, 6, 6, 7], 0.75), ([6, 5, 7, 5], 0.0)]:
        assert metrics.label_agreement(points, labels, REFERENCE, [5, 6, 7]) == expected


def test_agreement_equals_a_search_over_all_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    points, references = rng.normal(size=(50, 4, 4, 1)) + 100, rng.normal(size=(70, 4, 4, 1)) + 100
    labels, reference_labels = rng.integers(0, 3, 50), rng.integers(0, 3, 70)
    squares = ((points[:, None] - references[None]) ** 2).sum(axis=(2, 3, 4))
    expected = np.mean(reference_labels[squares.argmin(axis=1)] == labels)
    arguments = points, labels, references, reference_labels
    assert metrics.label_agreement(*arguments) == pytest.approx(expected)
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 150)  # two rows at a time
    assert metrics.label_agreement(*arguments) == pytest.approx(expected)


def test_agreement_on_real_digits_is_high_and_on_shuffled_labels_is_chance():
    train, test = datasets.split(*datasets.load_digits())
    assert metrics.label_agreement(*test, *train) > 0.95
    shuffled = np.random.default_rng(0).permutation(test[1])
    assert metrics.label_agreement(test[0], shuffled, *train) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3)), [0, 1], REFERENCE, [0, 1, 2]), "of one shape after the first axis"),
        ((np.zeros((0, 2)), [], REFERENCE, [0, 1, 2]), "images must be of shape"),
        ((np.full((1, 2), np.nan), [0], REFERENCE, [0, 1, 2]), "images must be finite"),
        ((np.zeros((2, 2)), [0], REFERENCE, [0, 1, 2]), "labels must be 2 integers"),
        ((np.zeros((2, 2)), [0.0, 1.0], REFERENCE, [0, 1, 2]), "labels must be 2 .*dtype=float64"),
        ((np.zeros((2, 2)), [0, 1], REFERENCE, [0, 1]), "reference_labels must be 3 integers"),
    ],
)
def test_agreement_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.label_agreement(*arguments)
