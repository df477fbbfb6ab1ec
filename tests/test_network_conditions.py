"""Laws of a network that is told several things: by name, dropped together, guided, saved."""

import keras
import numpy as np
import pytest
from keras import ops, tree
from reference import draw_weights

import keras_dit
from keras_dit import guidance
from keras_dit.conditions import Label, Vector

SHAPE = (4, 4, 1)


def make(**settings):
    conditions = {"label": Label(3), "age": Vector(2, mean=(1.0, 2.0))}
    options = {"conditions": conditions, **settings}
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, **options))


def inputs(n=4):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, *SHAPE)).astype("float32")
    t = rng.uniform(0, 999, n).astype("float32")
    y = {
        "label": rng.integers(0, 3, n).astype("int32"),
        "age": rng.standard_normal((n, 2)).astype("float32"),
    }
    return x, t, y


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_what_is_not_said_is_the_null_value():
    network = make()
    x, t, y = inputs()
    null = network.null(4)
    everything = numpy(network(x, t, y))
    for name in y:
        rest = {k: v for k, v in y.items() if k != name}
        found = numpy(network(x, t, rest))
        np.testing.assert_allclose(found, numpy(network(x, t, {**y, name: null[name]})), atol=1e-5)
        assert np.abs(found - everything).max() > 1e-3
    np.testing.assert_allclose(numpy(network(x, t)), numpy(network(x, t, null)), atol=1e-5)


def test_a_single_condition_takes_its_value_or_a_dict():
    network = make(conditions=None, num_classes=3)
    x, t, y = inputs()
    np.testing.assert_array_equal(
        numpy(network(x, t, y["label"])), numpy(network(x, t, {"label": y["label"]}))
    )


def test_conditions_are_dropped_together():
    network = make(condition_dropout=0.5)
    x, t, y = (np.repeat(part[:1], 400, axis=0) if hasattr(part, "shape")
               else {k: np.repeat(v[:1], 400, axis=0) for k, v in part.items()}
               for part in inputs())  # fmt: skip
    found = numpy(network(x, t, y, training=True)).reshape(400, -1)
    kinds = {tuple(row) for row in found.round(3)}
    assert len(kinds) == 2  # all or nothing
    nothing = numpy(network(x[:1], t[:1])).reshape(-1)
    share = np.isclose(found, nothing, atol=1e-4).all(axis=1).mean()
    assert abs(share - 0.5) < 0.1


def test_a_condition_with_a_dropout_of_its_own_is_dropped_by_itself():
    conditions = {"label": Label(3, dropout=0.5), "age": Vector(2, dropout=0.0)}
    network = make(conditions=conditions, condition_dropout=0.9)
    x, t, y = inputs(1)
    several = {k: np.repeat(v, 200, axis=0) for k, v in y.items()}
    found = numpy(network(np.repeat(x, 200, 0), np.repeat(t, 200), several, training=True))
    found = found.reshape(200, -1)
    without = numpy(network(x, t, {"age": y["age"]})).reshape(-1)
    whole = numpy(network(x, t, y)).reshape(-1)
    dropped = np.isclose(found, without, atol=1e-4).all(axis=1)
    kept = np.isclose(found, whole, atol=1e-4).all(axis=1)
    assert (dropped ^ kept).all()
    assert 60 < dropped.sum() < 140


def test_such_a_model_trains_samples_saves_and_loads(tmp_path):
    x, _, y = inputs(16)
    diffusion = keras_dit.Diffusion(make(), ema=0.5)
    diffusion.compile(keras.optimizers.Adam(1e-3))
    diffusion.fit(x, y, batch_size=8, epochs=1, verbose=0)
    told = {"label": [0, None, 2], "age": [[0.0, 1.0], None, [np.nan, 1.0]]}
    options = {"steps": 3, "guidance": guidance.ClassifierFree(2.0), "conditions": told}
    images = diffusion.generate(**options)
    assert images.shape == (3, *SHAPE)
    unlike = diffusion.generate(**{**options, "conditions": {"label": [0, None, 2]}})
    assert np.abs(images[1] - unlike[1]).max() < 1e-4  # nothing was said of it but "nothing"
    assert np.abs(images[0] - unlike[0]).max() > 1e-4
    diffusion.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.generate(**options), images, atol=1e-5)


def test_null_has_the_structure_of_checked_values():
    network = make()
    checked = network.check({"label": [0, 1]})
    tree.assert_same_structure(checked, network.null(2))
    np.testing.assert_array_equal(checked["age"], network.null(2)["age"])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([0, 1], "conditions must be a dict of values for label, age. Received: a list"),
        ({"height": [1]}, r"for label, age. Received: \['height'\]"),
        ({"label": [0, 7]}, "labels must lie in 0 ... 2. Received: 7"),
        ({"label": [0, 1], "age": [[1.0, 2.0]]}, "age must be 2 in number. Received: 1"),
        ({"age": [[1.0]]}, r"age must be finite numbers of shape \(n, 2\)"),
    ],
)
def test_wrong_values_are_refused_by_name(told, message):
    with pytest.raises(ValueError, match=message):
        make().check(told, 2)


def test_fit_wants_all_of_them():
    x, _, y = inputs()
    diffusion = keras_dit.Diffusion(make())
    diffusion.compile()
    with pytest.raises(ValueError, match="conditions label, age: y lacks age"):
        diffusion.fit(x, {"label": y["label"]}, verbose=0)


def test_num_classes_is_short_for_a_label():
    with pytest.raises(ValueError, match="num_classes is short for"):
        make(num_classes=3)
    with pytest.raises(ValueError, match=r"must be a dict of keras_dit\.conditions"):
        make(conditions={"label": 10})


def test_a_negative_label_is_one_of_several_conditions():
    """Away from that class, with everything else as it was said."""
    network = make()
    diffusion = keras_dit.Diffusion(network, ema=None)
    x, _, y = inputs()
    x = ops.convert_to_tensor(x)
    denoiser, rates = diffusion.denoiser(), diffusion.schedule(0.4)
    rates = keras_dit.Rates(*map(ops.convert_to_tensor, rates))
    away = {**y, "label": np.full(4, 2, "int32")}
    strong, weak = (numpy(denoiser(x, rates, told).x0) for told in (y, away))
    told = tree.map_structure(ops.convert_to_tensor, y)
    guided = guidance.NegativeLabel(3.0, label=2)(denoiser, told)(x, rates)
    expected = weak + 3.0 * (strong - weak)
    np.testing.assert_allclose(numpy(guided.x0), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": 3}, r"label must lie in 0 ... 2\. Received: label=3"),
        ({"label": 0, "condition": "age"}, r"one with classes.* Received: condition='age'"),
        (
            {"label": 0, "condition": "class"},
            r"condition='class' for a network of \['label', 'age'",
        ),
    ],
)
def test_a_negative_label_that_the_network_does_not_have_is_refused(settings, message):
    diffusion = keras_dit.Diffusion(make(), ema=None)
    weak = guidance.Clipped(guidance.NegativeLabel(**settings))
    with pytest.raises(ValueError, match=message):
        diffusion.generate(conditions={"label": [0]}, guidance=weak)


def two_conditions():
    """A denoiser of two conditions, and what it is asked for."""
    x, _, y = inputs()
    diffusion = keras_dit.Diffusion(make(), ema=None)
    rates = keras_dit.Rates(*map(ops.convert_to_tensor, diffusion.schedule(0.4)))
    told = tree.map_structure(ops.convert_to_tensor, y)
    return diffusion.network, diffusion.denoiser(), ops.convert_to_tensor(x), rates, told


def test_each_condition_has_a_scale_of_its_own():
    network, denoiser, x, rates, y = two_conditions()

    def x0(told):
        return numpy(denoiser(x, rates, told).x0)

    def guided(**scales):
        chosen = guidance.PerCondition(scales).prepared(network)
        return numpy(chosen(denoiser, y)(x, rates).x0)

    null = tree.map_structure(ops.convert_to_tensor, network.null(4))
    nothing, label, both = x0(null), x0({**null, "label": y["label"]}), x0(y)
    expected = nothing + 2.0 * (label - nothing) + 5.0 * (both - label)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(guided(label=2.0, age=5.0), expected, atol=1e-4 * scale)
    plain = numpy(guidance.ClassifierFree(3.0)(denoiser, y)(x, rates).x0)
    np.testing.assert_allclose(guided(label=3.0, age=3.0), plain, atol=1e-4 * scale)
    np.testing.assert_allclose(guided(age=1.0), both, atol=1e-4 * scale)
    assert guidance.PerCondition({"label": 1, "age": 1.0}).simplified(None, None, 4) == (
        guidance.Unguided()
    )


def test_values_may_be_told_that_an_image_is_kept_away_from():
    """The other conditions as they were said; one value is for all samples."""
    network, denoiser, x, rates, y = two_conditions()
    away = {**y, "age": ops.convert_to_tensor(np.tile([[3.0, np.nan]], (4, 1)).astype("float32"))}
    strong, weak = (numpy(denoiser(x, rates, told).x0) for told in (y, away))
    chosen = guidance.Negative(3.0, told={"age": [3.0, np.nan]}).prepared(network)
    expected = weak + 3.0 * (strong - weak)
    found = numpy(chosen(denoiser, y)(x, rates).x0)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("make_guidance", "message"),
    [
        (lambda: guidance.Negative(told={"name": "x"}), r"told must be by the names.* label, age"),
        (lambda: guidance.Negative(told={"label": 9}), r"labels must lie in 0 \.\.\. 2"),
        (lambda: guidance.Negative(told={}), "told must be values by name"),
        (lambda: guidance.PerCondition({"name": 2.0}), "scales must be by the names"),
        (lambda: guidance.PerCondition({"age": [1.0, 2.0]}), "a number for each"),
        (lambda: guidance.PerCondition({"age": float("nan")}), "finite"),
        (lambda: guidance.PerCondition({}), "numbers by the names of conditions"),
    ],
)
def test_guidance_by_what_the_network_is_not_told_is_refused(make_guidance, message):
    with pytest.raises(ValueError, match=message):
        guidance.Clipped(make_guidance()).prepared(make())
