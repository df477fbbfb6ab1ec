"""Laws of keras_dit.conditions: time features, labels and their null class, checked labels."""

import keras
import numpy as np
import pytest
from keras import ops, tree
from reference import dense, draw_weights, silu, time_features, weights_of

import keras_dit
from keras_dit.conditions import Label, TimestepEmbedding, Tokens, Vector, check_labels
from keras_dit.layers import AdaLNBlock, CrossAttention

TIMES = np.array([0.0, 0.125, 1.5, 250.75, 499.0, 998.75, 999.0, 999.25], "float32")


def numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def features(layer, t):
    """What the layer's first Dense is given, seen through it: its kernel is the identity."""
    size = layer.frequency_size
    layer.build(None)
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
    layer.build(None)
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
    layer = Label(4, 6, **options)
    layer.build(None)
    return layer


def test_labels_are_rows_of_a_table_with_the_null_label_last():
    layer = make_labels()
    table = numpy(layer.table)
    assert table.shape == (5, 6)
    np.testing.assert_array_equal(layer.null(2), [4, 4])
    labels = np.array([2, 0, 4, 3], "int32")
    for training in (False, None):
        np.testing.assert_array_equal(numpy(layer(labels, training=training).vector), table[labels])


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_a_label_is_dropped_as_often_as_asked_in_training(dropout):
    layer, n = make_labels(dropout=dropout), 20000
    labels = np.arange(n, dtype="int32") % 4
    rows = numpy(layer(labels, training=True).vector)
    dropped = (rows == numpy(layer.table)[4]).all(axis=1)
    np.testing.assert_array_equal(rows[~dropped], numpy(layer.table)[labels[~dropped]])
    assert abs(dropped.mean() - dropout) < 4 * np.sqrt(dropout * (1 - dropout) / n)
    again = (numpy(layer(labels, training=True).vector) == numpy(layer.table)[4]).all(axis=1)
    both = (dropped & again).mean()  # two draws are independent
    assert abs(both - dropout**2) < 4 * np.sqrt(dropout**2 * (1 - dropout**2) / n)


def test_without_dropout_no_label_is_dropped():
    layer = make_labels(dropout=0.0)
    labels = np.arange(1000, dtype="int32") % 4
    found = numpy(layer(labels, training=True).vector)
    np.testing.assert_array_equal(found, numpy(layer.table)[labels])


def test_a_label_out_of_range_embeds_to_nan_and_the_others_do_not():
    """On every backend: so that a step with it is skipped. In a data set K is no class either."""
    layer = make_labels(dropout=0.0)
    labels = np.array([0, 5, -1, 4, 3], "int32")
    finite = np.isfinite(numpy(layer(labels).vector)).all(axis=1)
    np.testing.assert_array_equal(finite, [True, False, False, True, True])
    finite = np.isfinite(numpy(layer(layer.admit(labels)).vector)).all(axis=1)
    np.testing.assert_array_equal(finite, [True, False, False, False, True])


# Numbers


def test_unknown_numbers_do_not_matter_and_are_no_zero():
    layer = draw_weights_of(Vector(3, mean=(1.0, 2.0, 3.0), std=2.0, hidden_size=8))
    mean = np.array([[1.0, 2.0, 3.0]], "float32")
    unknown = layer.null(1)
    assert np.abs(numpy(layer(mean).vector) - numpy(layer(unknown).vector)).max() > 1e-3
    weights = {k: v.astype("float64") for k, v in weights_of(layer).items()}
    value = np.array([[5.0, np.nan, 2.0]], "float32")
    features = np.array([[2.0, 0.0, -0.5, 1.0, 0.0, 1.0]])
    expected = dense(weights, "mlp_out", silu(dense(weights, "mlp_in", features)))
    np.testing.assert_allclose(numpy(layer(value).vector), expected, atol=1e-5)


def test_a_number_with_a_period_comes_round_again():
    layer = draw_weights_of(Vector(2, mean=1.0, period=(None, 360), hidden_size=8))
    again = type(layer).from_config(layer.get_config())
    again.build(None)
    again.set_weights(layer.get_weights())
    values = np.array([[3.0, 10.0], [3.0, 370.0], [3.0, -1.0], [3.0, 359.0], [3.0, 1.0]], "float32")
    one, same, end, there, near = numpy(again(values).vector)
    np.testing.assert_allclose(same, one, atol=1e-4)
    np.testing.assert_allclose(there, end, atol=1e-4)
    assert 0 < np.abs(near - there).max() < 0.5 * np.abs(one - there).max()
    weights = {k: v.astype("float64") for k, v in weights_of(layer).items()}
    features = [[2.0, 0.0, 0.0, 1.0, 0.0]]  # the angle is not known: neither cosine nor sine
    expected = dense(weights, "mlp_out", silu(dense(weights, "mlp_in", np.array(features))))
    unknown = numpy(layer(np.array([[3.0, np.nan]], "float32")).vector)
    np.testing.assert_allclose(unknown, expected, atol=1e-5)
    for wrong in (0, -1.0, (1.0,), (None, float("inf"))):
        with pytest.raises(ValueError, match="period must be above 0 or None"):
            Vector(2, period=wrong)


def test_numbers_are_checked_on_the_host():
    layer = Vector(2, hidden_size=4)
    np.testing.assert_array_equal(
        layer.check([[1, 2], None]), np.array([[1, 2], [np.nan, np.nan]], "float32")
    )
    assert Vector(1, hidden_size=4).check(np.arange(3)).shape == (3, 1)
    for wrong in ([[1, 2, 3]], [1, 2], [["a", "b"]], [[1, np.inf]]):
        with pytest.raises(ValueError, match=r"finite numbers of shape \(n, 2\)"):
            layer.check(wrong)
    with pytest.raises(ValueError, match=r"must be 3 in number. Received: 1"):
        layer.check([[1, 2]], 3)


# Sequences


def test_places_that_are_empty_do_not_matter():
    layer = draw_weights_of(Tokens(4, 3, 8))
    rng = np.random.default_rng(0)
    value = layer.check([rng.standard_normal((2, 4)), rng.standard_normal((3, 4)), None])
    np.testing.assert_array_equal(value.mask.sum(axis=1), [2, 3, 0])
    told = layer(value)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(told.mask),
        [[False, True, True, False], [False, True, True, True], [True, False, False, False]],
    )
    weights = {k: v.astype("float64") for k, v in weights_of(layer).items()}
    expected = dense(weights, "projection", value.tokens.astype("float64"))
    np.testing.assert_allclose(numpy(told.tokens)[:, 1:], expected, atol=1e-5)
    for row in numpy(told.tokens)[:, 0]:
        np.testing.assert_array_equal(row, numpy(layer.null_token)[0, 0])


def test_sequences_are_checked_on_the_host():
    layer = Tokens(4, 3, 8)
    for wrong in (np.zeros((2, 4, 4)), np.zeros((2, 3, 5)), [np.zeros(4)]):
        with pytest.raises(ValueError, match="at most 3 embeddings of 4 numbers"):
            layer.check(wrong)
    with pytest.raises(ValueError, match="finite"):
        layer.check(np.full((1, 3, 4), np.nan))
    with pytest.raises(ValueError, match=r"must be 3 in number. Received: 1"):
        layer.check(np.zeros((1, 3, 4)), 3)


@pytest.mark.parametrize("make", [lambda: Vector(2, hidden_size=8, dropout=0.5),
                                  lambda: Tokens(2, 2, 8, dropout=0.5)])  # fmt: skip
def test_a_dropped_value_is_the_null_value(make):
    layer = draw_weights_of(make())
    shape = (200, 2) if isinstance(layer, Vector) else (200, 2, 2)
    value = np.random.default_rng(0).standard_normal(shape).astype("float32")
    null = tree.flatten(layer(layer.null(1)))
    kept = tree.flatten(layer(value))
    found = tree.flatten(layer(value, training=True))
    dropped = np.ones(200, bool)
    for one, nothing in zip(found, null):
        if one is not None:
            same = np.isclose(numpy(one), numpy(nothing), atol=1e-6)
            dropped &= same.reshape(200, -1).all(axis=1)
    assert 60 < dropped.sum() < 140
    for one, other in zip(found, kept):
        if one is not None:
            np.testing.assert_allclose(numpy(one)[~dropped], numpy(other)[~dropped], atol=1e-6)


# As Keras layers


def test_a_time_embedding_stands_alone_and_comes_back(tmp_path):
    layer = TimestepEmbedding(8, 32, 1)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.compute_output_shape((None,)) == (None, 8)
    inputs = keras.Input(())
    model = keras.Model(inputs, again(inputs))
    assert model.output_shape == (None, 8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = np.array([0, 3, 1], "float32")
    np.testing.assert_array_equal(numpy(loaded(values)), numpy(model(values)))


CONDITIONS = [
    Label(3, dropout=0.2),
    Vector(2, (1.0, 2.0), 3.0),
    Tokens(5, 3, dropout=0.0),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: type(c).__name__)
def test_a_condition_gives_the_width_of_its_network(condition):
    network = keras_dit.DiTModel(
        (4, 4, 1), 2, 8, 1, 2,
        conditions={"told": condition},
        block=AdaLNBlock(2, cross_attention=CrossAttention(2)),
    )  # fmt: skip
    copy = network.conditions["told"]
    config = {**condition.get_config(), "hidden_size": 8, "name": "told"}
    assert copy.get_config() == config
    told = copy(copy.null(2))
    assert {x.shape[-1] for x in (told.vector, told.tokens) if x is not None} == {8}


def test_a_condition_of_another_width_is_refused():
    with pytest.raises(ValueError, match="hidden_size of the condition told must be None or that"):
        keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, conditions={"told": Label(3, 16)})
    with pytest.raises(ValueError, match="the block has no attention to them"):
        keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, conditions={"told": Tokens(3, 2)})


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
        ([0.0, 1.0], None, r"list of integers.* Received: labels of shape \(2,\) and type float64"),
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
