"""Laws of keras_dit.Diffusion in fit: every kind of data, the average in closed form, files."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from reference import Reconstruction, path, weights_of
from test_diffusion import FLOW, data, network

import keras_dit
from keras_dit import codecs, guidance, objectives, predictions, schedules


def make(optimizer=None, changes=None, **options):
    diffusion = keras_dit.Diffusion(network(**(changes or {})), **{**FLOW, **options})
    # Keras's own choice: TensorFlow's XLA, which fit takes by default, would be slow to start.
    diffusion.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile="auto")
    return diffusion


def fixed(**options):
    """Nothing is random: no noise, no time, no dropped label. Two runs give the same weights."""
    return make(changes={"label_dropout": 0.0}, objective=Reconstruction(), **options)


def assert_same(one, two, atol=0.0):
    one, two = (d if isinstance(d, dict) else weights_of(d.network) for d in (one, two))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=atol, err_msg=name)


def averages(diffusion):
    names = [path(diffusion.network, w) for w in diffusion.network.weights]
    return dict(zip(names, map(ops.convert_to_numpy, diffusion.average.values), strict=True))


def test_fit_lowers_the_loss():
    keras.utils.set_random_seed(0)
    diffusion = keras_dit.Diffusion(network(), **FLOW, ema=0.9)
    diffusion.compile(keras.optimizers.Adam(5e-3))
    x = np.tile(np.array([-1.0, 0.0, 1.0], "float32").repeat(16).reshape(3, 4, 4, 1), (20, 1, 1, 1))
    y = np.arange(60) % 3
    before = diffusion.evaluate(x, y, verbose=0)
    history = diffusion.fit(x, y, epochs=40, validation_data=(x, y), verbose=0).history
    assert np.mean(history["loss"][-5:]) < 0.5 * history["loss"][0]
    assert history["val_loss"][-1] == pytest.approx(diffusion.evaluate(x, y, verbose=0), rel=1e-6)
    assert history["val_loss"][-1] < 0.5 * before


# Kinds of data


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=4):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, index):
        part = slice(index * self.size, (index + 1) * self.size)
        return self.x[part], self.y[part]


def generator(x, y):
    batches = Batches(x, y)
    while True:
        yield from (batches[i] for i in range(len(batches)))


def tf_dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def torch_loader(x, y):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=4)


def missing(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@pytest.fixture(scope="module")
def expected():
    diffusion = fixed()
    diffusion.fit(*data(8), batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert max(np.abs(v).max() for v in weights_of(diffusion.network).values()) < 10
    return weights_of(diffusion.network)


@pytest.mark.parametrize(
    "kind",
    [
        Batches,
        generator,
        pytest.param(tf_dataset, marks=missing("tensorflow")),
        pytest.param(torch_loader, marks=missing("torch")),
    ],
)
def test_every_kind_of_data_trains_alike(kind, expected):
    diffusion = fixed()
    options = {"steps_per_epoch": 2} if kind is generator else {}
    diffusion.fit(kind(*data(8)), epochs=2, verbose=0, **options)
    assert_same(expected, diffusion, atol=1e-6)


@missing("tensorflow")
def test_data_of_unknown_length_takes_the_same_random_numbers():
    """Keras asks for a step more than there are, by which it sees that an epoch is over."""
    trained = []
    for change in (lambda data: data, lambda data: data.filter(lambda *_: True)):
        keras.utils.set_random_seed(0)
        trained.append(make())
        trained[-1].fit(change(tf_dataset(*data(8))), epochs=2, verbose=0)
    assert_same(*trained, atol=1e-6)


def test_a_weight_of_two_is_the_sample_twice_and_of_zero_its_absence():
    x, y = data(4)
    weighted, listed = fixed(), fixed()
    weight = np.array([2.0, 0.0, 1.0, 1.0], "float32")
    weighted.fit(x, y, sample_weight=weight, batch_size=4, epochs=2, verbose=0)
    listed.fit(x[[0, 0, 2, 3]], y[[0, 0, 2, 3]], batch_size=4, epochs=2, verbose=0)
    assert_same(listed, weighted, atol=1e-6)


def test_bytes_are_scaled_in_the_step():
    codes = np.arange(64, dtype="uint8").reshape(4, 4, 4, 1) * 4
    _, y = data(4)
    scaled, raw = fixed(), fixed(codec=codecs.Pixels(0, 255))
    scaled.fit(codes / np.float32(127.5) - 1, y, verbose=0)
    raw.fit(codes, y, verbose=0)
    assert_same(scaled, raw, atol=1e-6)


def test_a_network_without_classes_and_without_average():
    diffusion = make(changes={"num_classes": None}, ema=None)
    x, y = data(8)
    diffusion.fit(x, batch_size=4, epochs=1, verbose=0)
    assert diffusion.average is None
    assert np.isfinite(diffusion.evaluate(x, verbose=0))
    assert diffusion.generate(num_images=2, steps=1).shape == (2, 4, 4, 1)
    for call in (lambda: diffusion.fit(x, y), lambda: diffusion.generate([0])):
        with pytest.raises(ValueError, match="no classes"):
            call()


# The average


def recorded(diffusion, steps=4):
    """The weights after each step."""
    seen = []
    for _ in range(steps):
        diffusion.train_on_batch(*data(4))
        seen.append(weights_of(diffusion.network))
    return seen


@pytest.mark.parametrize(
    ("policy", "decay"), [("float32", 0.05), ("mixed_bfloat16", 0.99), ("bfloat16", 0.05)]
)
def test_the_average_in_closed_form(policy, decay):
    diffusion = make(changes={"dtype": policy}, ema=decay)
    expected = weights_of(diffusion.network)
    expected = {name: value.astype("float64") for name, value in expected.items()}
    seen = recorded(diffusion)
    for n, weights in enumerate(seen):
        rate = 1 - min(decay, n / (n + 10))
        for name, value in weights.items():
            expected[name] += rate * (value.astype("float64") - expected[name])
    found, last = averages(diffusion), weights_of(diffusion.network)
    moved = 0.0
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
        moved = max(moved, np.abs(found[name] - last[name].astype("float64")).max())
    assert moved > 1e-3


def test_the_average_moves_where_half_precision_cannot():
    """A step of 2⁻¹² of a weight of 1 is lost in bfloat16, and kept in the float32 average."""
    diffusion = make(changes={"dtype": "bfloat16"}, ema=0.999)
    average, weights = diffusion.average, diffusion.network.weights
    for weight in weights:
        weight.assign(ops.ones(weight.shape))
    average.restart()
    average.updates.assign(100_000)
    for weight in weights:
        weight.assign(ops.full(weight.shape, 1.25))
    average.update()
    for value in averages(diffusion).values():
        np.testing.assert_allclose(value, 1.00025, atol=2e-7)


def test_the_average_is_what_evaluates_and_generates():
    """And training's weights stay: it generates as a network that holds the average."""
    diffusion = make(ema=0.9)
    recorded(diffusion)
    before = weights_of(diffusion.network)
    pictures = diffusion.generate([0, 1, 2], steps=1)
    loss = diffusion.evaluate(*data(8), verbose=0)
    assert_same(before, diffusion)
    plain = make(ema=None)
    for weight, average in zip(plain.network.weights, averages(diffusion).values(), strict=True):
        weight.assign(average)
    np.testing.assert_allclose(plain.generate([0, 1, 2], steps=1), pictures, atol=1e-6)
    assert plain.evaluate(*data(8), verbose=0) == pytest.approx(loss, rel=1e-6)
    diffusion.train_on_batch(*data(4))
    after = diffusion.generate([0, 1, 2], steps=1)
    assert np.abs(after - pictures).max() > 1e-5  # nothing stale was compiled in


def test_the_average_of_new_weights_is_a_copy():
    """Weights may come from elsewhere before the first step."""
    diffusion = make(ema=0.9999)
    expected = weights_of(diffusion.network)
    for weight in diffusion.network.weights:
        weight.assign(ops.convert_to_numpy(weight) + 1)
    diffusion.evaluate(*data(4), verbose=0)
    for name, value in averages(diffusion).items():
        np.testing.assert_array_equal(value, expected[name] + 1)


def test_new_weights_generate_before_the_first_step():
    """And guide: by itself a network is not guided, whatever the scale."""
    diffusion, plain = make(ema=0.9), make(ema=None)
    for one, two in zip(diffusion.network.weights, plain.network.weights, strict=True):
        value = ops.convert_to_numpy(one) + 0.1
        one.assign(value)
        two.assign(value)
    expected = plain.generate([0, 1, 2], steps=2)
    np.testing.assert_allclose(diffusion.generate([0, 1, 2], steps=2), expected, atol=1e-6)
    guided = guidance.Autoguidance(3.0, weak=diffusion.denoiser())
    pictures = plain.generate([0, 1, 2], steps=2, guidance=guided)
    np.testing.assert_allclose(pictures, expected, atol=1e-5)


def test_training_goes_on_after_everything():
    """On JAX a step donates its buffers: anything that shares one dies here."""
    diffusion, x_y = make(keras.optimizers.Adam(1e-3)), data(8)
    diffusion.evaluate(*x_y, verbose=0)
    for _ in range(2):
        diffusion.fit(*x_y, batch_size=4, verbose=0, validation_data=x_y)
        diffusion.train_on_batch(*data(4))
        diffusion.generate([0], steps=1)
        diffusion.evaluate(*x_y, verbose=0)
    assert int(ops.convert_to_numpy(diffusion.average.updates)) == 2 * 2 + 2
    assert int(ops.convert_to_numpy(diffusion.optimizer.iterations)) == 2 * 2 + 2


# Files

PARTS = {
    "linear": {"schedule": schedules.LinearBeta(steps=100), "ema": 0.5},
    "cosine": {
        "schedule": schedules.CosineBeta(),
        "prediction": predictions.V(),
        "objective": objectives.MeanSquaredError(weighting=objectives.MinSNR(3.0)),
        "codec": codecs.Pixels(0, 255),
        "ema": None,
    },
    "flow": {
        **FLOW,
        "objective": objectives.MeanSquaredError(objectives.LogitNormalTimes(0.5, 0.7)),
        "codec": codecs.Latents(2.0),
    },
    "clean": {"schedule": schedules.ScaledLinearBeta(), "prediction": predictions.CleanSample()},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_file_holds_the_whole(tmp_path, name):
    diffusion = keras_dit.Diffusion(network(), **PARTS[name], name="mine")
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    for part in ("schedule", "prediction", "objective", "codec", "ema", "name"):
        assert getattr(loaded, part) == getattr(diffusion, part)
    assert loaded.network.config == diffusion.network.config
    assert_same(diffusion, loaded)
    np.testing.assert_array_equal(
        loaded.generate([0, 1], steps=1), diffusion.generate([0, 1], steps=1)
    )


def test_a_loaded_run_goes_on_as_if_it_had_not_been_saved(tmp_path):
    # Not Adam: the gradient of k's bias is 0 but for rounding, which Adam makes a step of.
    diffusion = fixed(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), ema=0.9)
    diffusion.fit(*data(8), batch_size=4, epochs=2, shuffle=False, verbose=0)
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    assert int(ops.convert_to_numpy(loaded.average.updates)) == 4
    for one, two in zip(averages(diffusion).values(), averages(loaded).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    for run in (diffusion, loaded):
        run.fit(*data(8), batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert_same(diffusion, loaded, atol=1e-6)
    for one, two in zip(averages(diffusion).values(), averages(loaded).values(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_adam_goes_on_from_a_file(tmp_path):
    """The outputs are compared: of k's bias, which is in none, Adam makes steps of rounding."""
    diffusion = fixed(optimizer=keras.optimizers.AdamW(0.01), ema=0.9)
    diffusion.fit(*data(8), batch_size=4, epochs=2, shuffle=False, verbose=0)
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    assert int(ops.convert_to_numpy(loaded.optimizer.iterations)) == 4
    x, y = data(8)
    outputs = []
    for run in (diffusion, loaded):
        run.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        outputs.append(ops.convert_to_numpy(run.network(x, np.full(8, 300.0, "float32"), y)))
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_dropped_labels_train_the_null_label():
    """Its row stays as it is without dropout; with remat the same labels are dropped."""
    trained = {}
    for dropout, remat in ((0.5, False), (0.0, True), (0.5, True)):
        keras.utils.set_random_seed(0)
        diffusion = make(changes={"label_dropout": dropout, "remat": remat})
        table, final = diffusion.network.label.table, diffusion.network.final
        for layer in (final.projection, final.modulation):  # at 0 they let no gradient through
            layer.kernel.assign(layer.kernel + 0.1)
        before = ops.convert_to_numpy(table)[-1].copy()
        diffusion.fit(*data(16), batch_size=4, shuffle=False, verbose=0)
        moved = np.abs(ops.convert_to_numpy(table)[-1] - before).max()
        assert (moved > 1e-6) == (dropout > 0)
        trained[dropout, remat] = diffusion
    assert_same(trained[0.5, False], trained[0.5, True], atol=1e-6)


def test_a_file_of_weights_holds_the_average_too(tmp_path):
    diffusion = make(ema=0.9)
    recorded(diffusion)
    diffusion.save_weights(tmp_path / "it.weights.h5")
    other = make(ema=0.9)
    other.load_weights(tmp_path / "it.weights.h5")
    assert_same(averages(diffusion), averages(other))
    assert int(ops.convert_to_numpy(other.average.updates)) == 4


# What fit refuses


@pytest.fixture(scope="module")
def untouched():
    return make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 1, 2, 3]}, "labels must lie in 0 ... 2. Received: 3 at index 3"),
        ({"y": [0, 1, 2, -1]}, "Received: -1 at index 3"),
        ({"y": [0.0, 1.0, 2.0, 0.0]}, "list of integers.* type float64"),
        ({"y": [0, 1, 2]}, "labels must be 4 in number. Received: 3"),
        ({"y": None}, "the network has 3 classes: give labels as y"),
        ({"x": np.zeros((4, 1, 4, 4), "float32")},
         r"channels last, here \(batch, 4, 4, 1\). Received: shape \(4, 1, 4, 4\)"),
        ({"x": np.zeros((4, 4, 4, 3), "float32")}, r"Received: shape \(4, 4, 4, 3\)"),
        ({"x": np.zeros((4, 4, 4), "float32")}, r"Received: shape \(4, 4, 4\)"),
        ({"x": np.zeros((0, 4, 4, 1), "float32"), "y": np.zeros(0, "int32")},
         "there are no images"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["fit", "evaluate", "validation", "dataset"])
def test_bad_data_is_refused_before_any_step(untouched, change, message, way):
    x, y = data(4)
    bad = {"x": x, "y": y, **change}
    bad["y"] = None if bad["y"] is None else np.asarray(bad["y"])
    with pytest.raises(ValueError, match=message):
        if way == "validation":
            untouched.fit(x, y, validation_data=(bad["x"], bad["y"]), verbose=0)
        elif way == "dataset":
            untouched.fit(iter([(bad["x"], bad["y"])]), verbose=0)
        else:
            getattr(untouched, way)(**bad, verbose=0)
    assert int(ops.convert_to_numpy(untouched.average.updates)) == 0


@pytest.mark.parametrize("way", ["fit", "evaluate"])
def test_pictures_have_to_be_given(untouched, way):
    with pytest.raises(ValueError, match=r"give images as x. Received: x=None"):
        getattr(untouched, way)(verbose=0)


@pytest.mark.parametrize("empty", [iter([]), Batches(*data(0))])
def test_no_data_is_refused(untouched, empty):
    with pytest.raises(ValueError, match="the data set is empty"):
        untouched.fit(empty, verbose=0)


def test_pictures_far_out_of_range_are_warned_of_once():
    x, y = data(4)
    bad, diffusion = np.clip(200 * (x + 1), 0, 255), fixed()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # as Python starts
        for _ in range(2):
            diffusion.fit(bad, y, validation_data=(bad, y), verbose=0)
    (message,) = [str(w.message) for w in seen if w.filename == __file__]
    assert message.startswith("images are expected in [-1, 1] but reach from")
    assert "Pixels(0, 255)" in message


def test_what_is_right_warns_of_nothing():
    x, y = data(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fixed().fit(1.1 * x, y, verbose=0)
        fixed(codec=codecs.Pixels(0, 255)).fit(np.clip(200 * (x + 1), 0, 255), y, verbose=0)
        fixed().fit(generator(x, y), steps_per_epoch=1, verbose=0)
