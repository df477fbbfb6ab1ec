"""Anything may be given: what is right runs and is saved and loaded, the rest is a ValueError.

The bytes of checkpoints are fuzzed in `test_checkpoints.py`.
"""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dit
from keras_dit import codecs
from keras_dit.conditions import check_labels
from keras_dit.training import data

NOT_COUNTS = st.one_of(
    st.integers(max_value=0),
    st.floats(),
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)


@st.composite
def right(draw):
    """Arguments that make a network."""
    patch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return {
        "input_shape": (rows * patch, columns * patch, draw(st.integers(1, 2))),
        "patch_size": patch,
        "hidden_size": 4 * heads * draw(st.integers(1, 2)),
        "depth": draw(st.integers(1, 2)),
        "num_heads": heads,
        "num_classes": draw(st.none() | st.integers(1, 3)),
        "label_dropout": draw(st.floats(0, 1, exclude_max=True)),
        "mlp_ratio": draw(st.floats(0.5, 2)),
        "learned_variance": draw(st.booleans()),
    }


@st.composite
def wrong(draw):
    """The same with one of them broken."""
    arguments = draw(right())
    name = draw(st.sampled_from(sorted(set(arguments) - {"learned_variance"})))
    patch, width = arguments["patch_size"], arguments["hidden_size"]
    rows, columns, channels = arguments["input_shape"]
    arguments[name] = draw(
        {
            "input_shape": st.sampled_from(
                [
                    (rows, columns),
                    (rows, columns, channels, 1),
                    (0, columns, channels),
                    (rows, -patch, channels),
                    (rows, columns, 0),
                    (rows + 0.5, columns, channels),
                    (None, columns, channels),
                    (*"abc",),
                    None,
                    7,
                ]
            ),
            "patch_size": NOT_COUNTS | st.just(max(rows, columns) + 1),
            "hidden_size": NOT_COUNTS | st.just(width + 1) | st.just(width + 2),
            "depth": NOT_COUNTS,
            "num_heads": NOT_COUNTS | st.just(width + 1),
            "num_classes": NOT_COUNTS.filter(lambda value: value is not None),
            "label_dropout": st.sampled_from([-0.1, 1.0, math.nan, math.inf, "0.1"]),
            "mlp_ratio": st.sampled_from([0.0, -1.0, math.nan, math.inf, None, "4"]),
        }[name]
    )
    return arguments


@settings(max_examples=300, deadline=None)
@given(wrong())
def test_what_makes_no_network_is_a_value_error(arguments):
    with pytest.raises(ValueError):
        keras_dit.DiTModel(**arguments)


@settings(max_examples=3, deadline=None)
@given(right())
def test_what_makes_a_network_runs_and_is_saved_and_loaded(tmp_path_factory, arguments):
    model = keras_dit.Diffusion(keras_dit.DiTModel(**arguments))
    path = tmp_path_factory.getbasetemp() / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert again.get_config() == model.get_config()
    pictures = model.generate(num_images=1, steps=1)
    assert pictures.shape == (1, *arguments["input_shape"])
    np.testing.assert_array_equal(again.generate(num_images=1, steps=1), pictures)


LABELS = st.one_of(
    st.lists(st.integers(-(2**70), 2**70), max_size=4),
    st.lists(
        st.one_of(st.integers(-1, 3), st.floats(), st.none(), st.text(max_size=1)), max_size=4
    ),
    st.lists(st.lists(st.integers(0, 3), max_size=2), max_size=3),
    st.integers(),
)


@settings(max_examples=300, deadline=None)
@given(LABELS, st.integers(1, 3), st.none() | st.integers(0, 4))
def test_labels_are_in_range_or_a_value_error(labels, num_classes, count):
    try:
        found = check_labels(labels, num_classes, count)
    except ValueError:
        return
    assert found.dtype == np.int32
    assert count in (None, len(found))
    assert ((found >= 0) & (found < num_classes)).all()
    np.testing.assert_array_equal(found, np.asarray(labels).reshape(-1))


network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 1, num_classes=3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 3, 4]), max_size=5),
    st.none() | st.lists(st.sampled_from([-1, 0, 2, 3]), max_size=4),
)
def test_pictures_and_labels_fit_or_are_a_value_error(shape, labels):
    labels = None if labels is None else np.array(labels, "int32")
    good = (
        len(shape) == 4
        and shape[0] > 0
        and tuple(shape[1:]) == network.image_shape
        and labels is not None
        and len(labels) == shape[0]
        and ((labels >= 0) & (labels < 3)).all()
    )
    x = np.zeros(shape, "float32")
    if good:
        assert data.taken(x, labels, None, network, codecs.Pixels())[0] is x
    else:
        with pytest.raises(ValueError):
            data.taken(x, labels, None, network, codecs.Pixels())
