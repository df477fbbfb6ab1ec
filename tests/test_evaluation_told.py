"""What the images of a score are told: labels, and whatever else a network is told, by name."""

import json
import types

import numpy as np
import pytest
from reference import draw_weights

import keras_dit
from keras_dit import datasets, evaluation, images
from keras_dit.conditions import Label, Tokens, Vector
from keras_dit.evaluation import Pixels, Plan
from keras_dit.evaluation.told import told

SHAPE = (4, 4, 1)
COUNT = 30
LABELS = np.repeat([0, 1, 2], [15, 5, 10])
AGES = np.stack([LABELS, np.arange(COUNT)], 1).astype("float32")


def network(**conditions):
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 8, 1, 2, conditions=conditions))


@pytest.fixture(scope="module")
def both():
    return network(label=Label(3), age=Vector(2, std=10.0))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (COUNT, *SHAPE), "uint8")
    return datasets.ImageBatches(pictures, LABELS, 10, conditions={"age": AGES})


def test_labels_like_the_datas_have_its_shares():
    classes = network(label=Label(3))
    known = {"label": np.array([2, 0, 2, 2])}
    found = told(classes, "data", 1000, data=known).of(range(1000))["label"]
    assert np.bincount(found, minlength=3).tolist() == [250, 0, 750]
    assert np.bincount(found[:100], minlength=3)[0] < 50  # in random order
    with pytest.raises(ValueError, match="a reference that has labels"):
        told(classes, "data", 10)
    with pytest.raises(ValueError, match=r"labels must be .* of 3 classes|0 (to|\.\.\.) 2"):
        told(classes, "data", 10, data={"label": np.array([1, 3])})
    assert told(classes, "none", 10).of([0, 9]) == {}
    assert told(network(), "balanced", 10).facts == {}


def test_what_the_data_says_of_an_image_stays_together(both, data):
    for policy in ("data", "balanced"):  # ages cannot be counted
        found = told(both, policy, 60, seed=1, data=data.conditions)
        values = found.of(range(60))
        np.testing.assert_array_equal(values["age"][:, 0], values["label"])
        assert np.bincount(values["label"]).tolist() == [30, 10, 20]
        assert np.unique(values["age"][:, 1], return_counts=True)[1].tolist() == [2] * COUNT
        assert found.facts == dict.fromkeys(("label", "age"), "as the reference has")
    assert found.digest == told(both, policy, 60, seed=1, data=data.conditions).digest
    assert found.digest != told(both, policy, 60, seed=2, data=data.conditions).digest


def test_a_condition_of_which_nothing_is_known_is_named(both, data):
    with pytest.raises(ValueError, match="is told age: that takes a reference that has age"):
        told(both, "balanced", 10, data={"label": LABELS})
    with pytest.raises(ValueError, match=r"of the network, label, age\. Received: caption"):
        told(both, "none", 10, given={"caption": ["a cat"]})
    with pytest.raises(ValueError, match="finite numbers of shape"):
        told(both, "none", 10, given={"age": np.zeros((3, 5))})
    found = told(both, "balanced", 5, given={"age": [None, [1, 2]]})
    assert found.facts == {"label": "balanced", "age": "given, 2 in turn"}
    assert found.of([1, 2]) == {"label": pytest.approx([1, 2]), "age": [[1, 2], None]}


def test_values_of_several_arrays_are_taken_together():
    known = {"caption": Tokens(2, 3)}
    captions = types.SimpleNamespace(conditions=known, told=known)
    tokens, mask = np.arange(24.0).reshape(4, 3, 2), np.eye(4, 3, dtype=bool)
    found = told(captions, "balanced", 4, data={"caption": (tokens, mask)})
    taken, there = found.of([2])["caption"]
    (place,) = found.places["caption"][[2]]
    np.testing.assert_array_equal(taken[0], tokens[place])
    np.testing.assert_array_equal(there[0], mask[place])


def test_the_images_of_a_score_are_those_of_their_conditions(both, data, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path))
    model = keras_dit.Diffusion(both, ema=None)
    reference = evaluation.reference(data, Pixels())
    plan = Plan(num_images=10, steps=2, batch_size=5, seed=3)
    kept = tmp_path / "kept.npz"
    report = evaluation.evaluate(model, reference, plan=plan, folder=tmp_path / "a", keep=kept)
    facts = json.loads(report.to_json())["sampling"]
    assert facts["labels"] == "balanced"
    assert facts["conditions"] == dict.fromkeys(("label", "age"), "as the reference has")
    values = told(both, "balanced", 10, 3, data=data.conditions).of(range(10))
    made = model.generate(conditions=values, steps=2, seed=list(range(3, 13)), batch_size=5)
    with np.load(kept) as found:
        np.testing.assert_array_equal(found["arr_0"], images.to_uint8(made))
        np.testing.assert_array_equal(found["arr_1"], values["label"])
    given = Plan(num_images=10, steps=2, batch_size=5, seed=3, conditions=values)
    with pytest.raises(ValueError, match=r"other settings \(.*conditions"):
        evaluation.evaluate(model, reference, plan=given, folder=tmp_path / "a")
    again = evaluation.evaluate(model, reference, plan=given)
    assert [score.value for score in again.scores] == [score.value for score in report.scores]


# Data sets


def test_batches_hand_all_that_is_known(data):
    pictures, y = data.batch(0, 1)
    assert pictures.shape == (10, *SHAPE)
    np.testing.assert_array_equal(y["age"][:, 0], y["label"])
    unnamed = datasets.ImageBatches(data.images, None, 10, conditions={"age": AGES})
    assert list(unnamed.batch(0, 0)[1]) == ["age"]
    with pytest.raises(ValueError, match=r"must be 30 values by name.*Received: age"):
        datasets.ImageBatches(data.images, None, 10, conditions={"age": AGES[:4]})
