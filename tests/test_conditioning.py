"""Laws of keras_dit.conditions: time features, labels and their null class, checked labels."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import dense, draw_weights, silu, time_features, weights_of

from keras_dit.conditions import LabelEmbedding, TimestepEmbedding, check_labels

TIMES = np.array([0.0, 0.125, 1.5, 250.75, 499.0, 998.75, 999.0, 999.25], "float32")


def numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def features(layer, t):
    """What the layer's first Dense is given, seen through it: its kernel is the identity."""
    size = layer.frequency_size
    layer.build()
    layer.mlp_in.kernel.assign(np.eye(size, dtype="float32"))
    layer.mlp_in.bias.assign(np.full(size, 50.0))  # where silu(x) is x
    layer.mlp_out.kernel.assign(np.eye(size, dtype="float32"))
    layer.mlp_out.bias.assign(np.full(size, -50.0))
    return numpy(layer(t))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [256, 32])
def test_time_features_in_closed_form(shift, size):
    found = features(TimestepEmbedding(size, size, shift), TIMES)
    # float32 holds t times a frequency to 999 · 2⁻²⁴, and the 50 of `features` to 4e-6.
    np.testing.assert_allclose(found, time_features(TIMES, size, shift), atol=7e-5)


def test_the_slowest_frequency_is_that_of_each_convention():
    """With a shift of 1, as in diffusers, the last frequency is 1/10000; with 0 it is above."""
    t = np.array([999.0], "float32")
    last = {shift: features(TimestepEmbedding(256, 256, shift), t)[0, -1] for shift in (0, 1)}
    assert last[1] == pytest.approx(np.sin(999.0 / 10000), abs=2e-5)
    assert last[0] == pytest.approx(np.sin(999.0 * 10000 ** (-127 / 128)), abs=2e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_fractional_times_survive_half_precision(policy):
    """In bfloat16 t = 999.25 and 1000 are one number."""
    layer = draw_weights_of(TimestepEmbedding(64, dtype=policy))
    found = numpy(layer(ops.convert_to_tensor([999.25, 1000.0], "float32")))
    weights = {k: v.astype("float64") for k, v in weights_of(layer).items()}
    x = time_features([999.25, 1000.0])
    expected = dense(weights, "mlp_out", silu(dense(weights, "mlp_in", x)))
    apart = np.abs(expected[0] - expected[1]).max()
    assert np.abs(found - expected).max() < 0.1 * apart


def draw_weights_of(layer):
    layer.build()
    return draw_weights(layer)


def test_time_embedding_is_an_mlp_of_the_features():
    layer = draw_weights_of(TimestepEmbedding(12))
    weights = {k: v.astype("float64") for k, v in weights_of(layer).items()}
    expected = dense(weights, "mlp_out", silu(dense(weights, "mlp_in", time_features(TIMES))))
    np.testing.assert_allclose(numpy(layer(TIMES)), expected, atol=1e-4)


def test_whole_times_may_be_integers():
    layer = draw_weights_of(TimestepEmbedding(12))
    whole = np.array([0, 7, 999])
    np.testing.assert_array_equal(
        numpy(layer(whole.astype("int32"))), numpy(layer(whole.astype("float32")))
    )


# Labels


def make_labels(**options):
    layer = LabelEmbedding(4, 6, **options)
    layer.build()
    return layer


def test_labels_are_rows_of_a_table_with_the_null_label_last():
    layer = make_labels()
    table = numpy(layer.table)
    assert (table.shape, layer.null_label) == ((5, 6), 4)
    labels = np.array([2, 0, 4, 3], "int32")
    for training in (False, None):
        np.testing.assert_array_equal(numpy(layer(labels, training=training)), table[labels])


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_a_label_is_dropped_as_often_as_asked_in_training(dropout):
    layer, n = make_labels(dropout=dropout), 20000
    labels = np.arange(n, dtype="int32") % 4
    rows = numpy(layer(labels, training=True))
    dropped = (rows == numpy(layer.table)[4]).all(axis=1)
    np.testing.assert_array_equal(rows[~dropped], numpy(layer.table)[labels[~dropped]])
    assert abs(dropped.mean() - dropout) < 4 * np.sqrt(dropout * (1 - dropout) / n)
    again = (numpy(layer(labels, training=True)) == numpy(layer.table)[4]).all(axis=1)
    both = (dropped & again).mean()  # two draws are independent
    assert abs(both - dropout**2) < 4 * np.sqrt(dropout**2 * (1 - dropout**2) / n)


def test_without_dropout_no_label_is_dropped():
    layer = make_labels(dropout=0.0)
    labels = np.arange(1000, dtype="int32") % 4
    np.testing.assert_array_equal(numpy(layer(labels, training=True)), numpy(layer.table)[labels])


# Both as Keras layers


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [(TimestepEmbedding(8, 32, 1), "float32"), (LabelEmbedding(3, 8, 0.2), "int32")],
)
def test_embeddings_stand_alone_and_come_back(layer, dtype, tmp_path):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.compute_output_shape((None,)) == (None, 8)
    inputs = keras.Input((), dtype=dtype)
    model = keras.Model(inputs, again(inputs))
    assert model.output_shape == (None, 8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = np.array([0, 3, 1], dtype)
    np.testing.assert_array_equal(numpy(loaded(values)), numpy(model(values)))


# The check


@pytest.mark.parametrize("labels", [[0, 1, 2], (2, 2), np.array([1], "uint8"), [[0], [2]], []])
def test_good_labels_become_int32(labels):
    checked = check_labels(labels, 3)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, np.reshape(labels, -1))


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        ([0, 3], None, r"labels must lie in 0 ... 2. Received: 3 at index 1"),
        ([0, 1, -1], None, r"labels must lie in 0 ... 2. Received: -1 at index 2"),
        ([0.0, 1.0], None, r"list of integers. Received: labels of shape \(2,\) and type float64"),
        ([True, False], None, "list of integers.* type bool"),
        (["0"], None, "list of integers.* type <U1"),
        ([[0, 1]], None, r"list of integers.* shape \(1, 2\)"),
        (1, None, r"list of integers.* shape \(\)"),
        ([0, 1], 3, "labels must be 3 in number. Received: 2"),
        ([], 1, "labels must be 1 in number. Received: 0"),
    ],
)
def test_bad_labels_are_refused(labels, count, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 3, count)
