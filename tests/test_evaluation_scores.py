"""Scores of features: equal to torch-fidelity's on the same ones, and laws of their own."""

import pathlib
import tracemalloc

import numpy as np
import pytest

from keras_dit import evaluation
from keras_dit.evaluation import neighbours
from keras_dit.evaluation.classes import ClassSums

with np.load(pathlib.Path(__file__).parent / "goldens" / "scores.npz") as golden:
    GOLDEN = dict(golden)
REAL, GENERATED, LOGITS = GOLDEN["real"], GOLDEN["generated"], GOLDEN["logits"]


def test_the_scores_are_those_of_torch_fidelity():
    frechet = evaluation.frechet_distance(GENERATED, REAL)
    assert frechet == pytest.approx(GOLDEN["frechet"][0], rel=1e-10)
    inception = evaluation.inception_score(LOGITS, splits=10)
    assert inception == pytest.approx(GOLDEN["inception"], rel=1e-10)
    kernel = evaluation.kernel_distance(GENERATED, REAL, subsets=7, subset_size=60, seed=2020)
    assert kernel == pytest.approx(GOLDEN["kernel"], rel=1e-10)
    close = evaluation.precision_recall(REAL, GENERATED, k=3)
    assert close == pytest.approx(GOLDEN["precision_recall"][:2], abs=1e-6)  # theirs is float32


def test_the_scores_are_those_of_the_evaluator_of_adm():
    with np.load(pathlib.Path(__file__).parent / "goldens" / "adm.npz") as adm:
        frechet = evaluation.frechet_distance(GENERATED, REAL)  # FID and sFID are one function
        assert frechet == pytest.approx(float(adm["frechet"]), rel=1e-10)
        inception = evaluation.inception_score(LOGITS, splits=5).mean
        assert inception == pytest.approx(float(adm["inception"]), rel=1e-6)  # theirs is float32
        close = evaluation.precision_recall(REAL, GENERATED, k=3)
        assert close == pytest.approx(adm["precision_recall"], abs=1e-12)
        assert close == pytest.approx(adm["precision_recall_half"], abs=0.02)


# Moments


def test_moments_of_batches_are_those_of_the_whole():
    """Though the mean is ten million times the deviation, where sums of squares would fail."""
    values = np.random.default_rng(0).normal(size=(1000, 4)) + 1e7
    moments = evaluation.Moments(4)
    for batch in np.split(values, [1, 1, 70, 500]):  # one of them empty, one of one
        moments.add(batch)
    assert moments.count == 1000
    exact = (values - 1e7).astype("longdouble")
    np.testing.assert_allclose(moments.mean - 1e7, exact.mean(0).astype(float), atol=1e-8)
    centred = exact - exact.mean(0)
    expected = (centred.T @ centred / 999).astype(float)
    np.testing.assert_allclose(moments.covariance, expected, rtol=0, atol=1e-7)


def test_moments_can_be_merged_and_written():
    values = np.random.default_rng(0).normal(size=(50, 3))
    parts = [evaluation.Moments(3) for _ in range(3)]
    for part, rows in zip(parts, (values[:20], values[20:], values[:0])):
        part.add(rows)
    first, *others = parts
    for other in others:
        first.merge(other)
    np.testing.assert_allclose(first.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(first.covariance, np.cov(values, rowvar=False), rtol=1e-12)
    again = evaluation.Moments.restored(first.arrays())
    again.add(values[:7])
    first.add(values[:7])
    np.testing.assert_array_equal(again.covariance, first.covariance)


def test_moments_refuse_what_makes_none():
    moments = evaluation.Moments(2)
    moments.add(np.ones((1, 2)))
    with pytest.raises(ValueError, match="takes two samples or more: one image has none"):
        _ = moments.covariance
    with pytest.raises(ValueError, match=r"2 dimensions. Received: shape=\(4, 3\)"):
        moments.add(np.ones((4, 3)))
    with pytest.raises(ValueError, match="must be finite"):
        moments.add(np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="their number is not known"):
        moments.merge(evaluation.Moments.given(np.zeros(2), np.eye(2)))
    with pytest.raises(ValueError, match=r"covariance of shape \(D, D\)"):
        evaluation.Moments.given(np.zeros(2), np.eye(3))


# The Inception score


def test_the_inception_score_has_its_limits():
    """1 where a classifier says the same of all; the number of classes where it is sure of each."""
    assert evaluation.inception_score(np.ones((20, 5)), splits=2) == pytest.approx((1.0, 0.0))
    sure = 1e3 * np.eye(5)[np.arange(20) % 5]
    assert evaluation.inception_score(sure, splits=2) == pytest.approx((5.0, 0.0))


def test_the_inception_score_comes_batch_by_batch():
    sums = ClassSums(9, total=95, splits=10)
    for batch in np.split(LOGITS, [3, 40, 41]):
        sums = ClassSums.restored(sums.arrays())
        sums.add(batch)
    assert sums.score == pytest.approx(evaluation.inception_score(LOGITS), rel=1e-12)
    with pytest.raises(ValueError, match="more images than the 95"):
        sums.add(LOGITS[:1])


def test_the_inception_score_refuses_bad_arguments():
    with pytest.raises(ValueError, match="splits=10, 3 images"):
        evaluation.inception_score(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"must be of shape \(N, C\)"):
        evaluation.inception_score(np.ones(3))
    with pytest.raises(ValueError, match="logits must be finite"):
        evaluation.inception_score(np.full((3, 4), np.inf), splits=1)


# The kernel distance


def test_the_kernel_distance_is_without_bias():
    """Of two sets of one distribution it is 0 on average, whatever their size."""
    draws = np.random.default_rng(0)
    found = [
        evaluation.kernel_distance(*draws.normal(size=(2, 20, 3)), subsets=1, subset_size=20).mean
        for _ in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert np.std(found) > 0


def test_the_kernel_distance_has_a_closed_form():
    """Two points a set: k(a, b) + k(c, d) − mean of the four others."""
    (a, b), (c, d) = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[3.0, 0.0], [1.0, 1.0]])

    def k(x, y):
        return (x @ y / 2 + 1) ** 3

    expected = k(a, b) + k(c, d) - (k(a, c) + k(a, d) + k(b, c) + k(b, d)) / 2
    found = evaluation.kernel_distance([a, b], [c, d], subsets=3, subset_size=2)
    assert found == pytest.approx((expected, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subset_size": 91}, "number of images of features_a, 90. Received: subset_size=91"),
        ({"subset_size": 1}, "subset_size 2 or more"),
        ({"subsets": 0}, "subsets must be 1 or more"),
    ],
)
def test_the_kernel_distance_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluation.kernel_distance(GENERATED, REAL, **{"subset_size": 10, **arguments})
    with pytest.raises(ValueError, match="as many dimensions"):
        evaluation.kernel_distance(GENERATED, REAL[:, :3], subset_size=10)


# Precision and recall


def test_precision_and_recall_of_sets_made_by_hand():
    real, far = np.arange(8.0)[:, None], np.arange(8.0)[:, None] + 1000
    assert evaluation.precision_recall(real, real) == (1.0, 1.0)
    assert evaluation.precision_recall(real, far) == (0.0, 0.0)
    half = np.concatenate([real[:4], far[:4]])
    assert evaluation.precision_recall(real, half, k=1).precision == 0.5


def test_precision_and_recall_in_little_memory_are_the_same(monkeypatch):
    whole = evaluation.precision_recall(REAL, GENERATED)
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 1000)
    assert evaluation.precision_recall(REAL, GENERATED) == whole


def test_precision_and_recall_hold_few_distances_at_once(monkeypatch):
    """1200 images have 11 MB of distances to each other; a tenth of that is there at most."""
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 30_000)
    features = np.random.default_rng(0).normal(size=(1200, 4))
    tracemalloc.start()
    evaluation.precision_recall(features, features + 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1200**2 * 8 / 10


def test_precision_and_recall_refuse_bad_arguments():
    with pytest.raises(ValueError, match=r"real must be of shape .* N of at least 4"):
        evaluation.precision_recall(REAL[:3], GENERATED)
    with pytest.raises(ValueError, match=r"as many dimensions\. Received: 12, 5"):
        evaluation.precision_recall(REAL, GENERATED[:, :5])
    with pytest.raises(ValueError, match="k must be 1 or more"):
        evaluation.precision_recall(REAL, GENERATED, k=0)


# Intervals


def test_an_interval_is_as_wide_as_the_score_moves_with_other_images():
    """The Fréchet distance of 60 numbers, drawn 300 times: the bootstrap of one draw agrees."""
    draws = np.random.default_rng(0)
    other = np.array([0.0, 1.0, -1.0] * 20)[:, None]

    def score(sample):
        return evaluation.frechet_distance(sample, other)

    scores = [score(draws.normal(size=(60, 1)) + 2) for _ in range(300)]
    low, high = evaluation.confidence_interval(score, draws.normal(size=(60, 1)) + 2, rounds=300)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(scores), rel=0.35)
    with pytest.raises(ValueError, match="rounds must be 2 or more"):
        evaluation.confidence_interval(score, other, rounds=1)
