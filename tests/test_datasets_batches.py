"""Laws of keras_dit.datasets.ImageBatches: pure, fair, resumable, the same through fit."""

import itertools

import keras
import numpy as np
import pytest

from keras_dit import images
from keras_dit.datasets import ImageBatches


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def numbered(count):
    """Images that are recognised: image i is i everywhere, with its left half darker by one."""
    batch = (
        np.zeros((count, 2, 2, 1), "uint8") + np.arange(count, dtype="uint8")[:, None, None, None]
    )
    batch[:, :, 0] += 100
    return batch


def contents(batches, epoch):
    return np.concatenate([batches.batch(epoch, i)[0] for i in range(len(batches))])


def test_batches_are_float32_and_keep_images_and_labels_together():
    batches = ImageBatches(numbered(10), np.arange(10), batch_size=4, class_names="abcdefghij")
    assert (batches.input_shape, batches.num_classes) == ((2, 2, 1), 10)
    assert batches.class_names == tuple("abcdefghij")
    assert len(batches) == 2
    pictures, labels = batches[0]
    assert (pictures.shape, pictures.dtype, labels.dtype) == ((4, 2, 2, 1), np.float32, np.int32)
    np.testing.assert_array_equal(images.to_uint8(pictures)[:, 0, 1, 0], labels)
    assert pictures.min() >= -1
    assert pictures.max() <= 1


def test_an_epoch_takes_every_image_once():
    labels = np.arange(10)
    batches = ImageBatches(numbered(10), labels, 4, drop_remainder=False)
    assert len(batches) == 3
    seen = np.concatenate([batch[1] for batch in batches])
    assert sorted(seen) == list(range(10))
    dropped = np.concatenate([batch[1] for batch in ImageBatches(numbered(10), labels, 4)])
    np.testing.assert_array_equal(dropped, seen[:8])


def test_a_batch_is_a_function_of_seed_epoch_and_index():
    def make(seed):
        return ImageBatches(numbered(50), np.arange(50), 10, flip=True, seed=seed)

    one, two = make(7), make(7)
    places = list(itertools.product(range(3), range(5)))
    forward = [one.batch(*place) for place in places]
    backward = [two.batch(*place) for place in reversed(places)][::-1]
    for (a, labels_a), (b, labels_b) in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(labels_a, labels_b)
    two.epoch = 2
    np.testing.assert_array_equal(two[3][1], one.batch(2, 3)[1])
    orders = {tuple(make(seed).batch(epoch, 0)[1]) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9  # every seed and every epoch its own


def test_orders_and_flips_are_fair():
    count, epochs = 40, 250
    batches = ImageBatches(numbered(count), np.arange(count), count, flip=True)
    draws = [batches.batch(epoch, 0) for epoch in range(epochs)]
    flipped = np.array([pictures[:, 0, 0, 0] < pictures[:, 0, 1, 0] for pictures, _ in draws])
    orders = np.array([labels for _, labels in draws])
    # Four standard deviations: of 10000 coins, of 40 coins a place, of a mean of 250 labels.
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(count * epochs)
    assert np.abs(flipped.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(epochs)
    assert np.abs(orders.mean(axis=0) - 19.5).max() < 4 * 11.6 / np.sqrt(epochs)


def test_a_flip_mirrors_left_and_right():
    wide = noise(30, 3, 5, 3)
    plain = ImageBatches(wide, batch_size=30, seed=1)[0][0]
    mirrored = ImageBatches(wide, batch_size=30, seed=1, flip=True)[0][0]
    same = (mirrored == plain).all(axis=(1, 2, 3))
    turned = (mirrored == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ turned).all()
    assert 0 < turned.sum() < 30


def test_without_shuffle_the_order_stays_and_without_labels_there_are_none():
    batches = ImageBatches(numbered(7), batch_size=3, shuffle=False, drop_remainder=False)
    np.testing.assert_array_equal(images.to_uint8(contents(batches, 4)), numbered(7))
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert batches.num_classes is batches.class_names is None


def test_floats_pass_unchanged_and_bytes_as_their_floats():
    stored = noise(6, 4, 4, 3)
    floats = images.from_uint8(stored)
    a = contents(ImageBatches(stored, batch_size=2), 0)
    for other in (floats, floats.astype("float64")):
        np.testing.assert_array_equal(a, contents(ImageBatches(other, batch_size=2), 0))


def test_the_order_is_the_same_everywhere():
    """It rests on Philox's raw words alone, which numpy keeps from version to version."""
    labels = np.arange(8)
    batches = ImageBatches(np.zeros((8, 1, 1, 1), "uint8"), labels, 8, seed=5)
    key, counter = np.array([5, 2], "uint64"), np.zeros(4, "uint64")
    words = np.random.Philox(key=key, counter=counter).random_raw(8)
    np.testing.assert_array_equal(batches.batch(2, 0)[1], np.argsort(words))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, 2, 2, 1), "uint8")}, "there is no data"),
        ({"batch_size": 7}, "fewer images than one batch.* Received: 6 images, batch_size=7"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1. Received: 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1. Received: 2.5"),
        ({"threads": 0}, "threads must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer"),
        ({"images": np.zeros((6, 2, 2), "uint8")}, r"adds a channel. Received: shape=\(6, 2, 2\)"),
        (
            {"images": np.zeros((6, 2, 2, 1), "int64")},
            r"floats in \[-1, 1\]. Received: dtype=int64",
        ),
        ({"labels": [0, 1, 2]}, r"labels must be of shape \(6,\)"),
        ({"labels": np.zeros(6)}, "labels must be integers"),
        ({"labels": [0, 1, 2, 3, 4, -1]}, "minimum=-1"),
        ({"class_names": ["a", "b"]}, "name every label up to 5. Received: 2 names"),
    ],
)
def test_batches_refuse_bad_arguments(change, message):
    arguments = {"images": np.zeros((6, 2, 2, 1), "uint8"), "labels": range(6), "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        ImageBatches(**(arguments | change))


def test_there_is_no_batch_past_the_end():
    batches = ImageBatches(numbered(6), batch_size=2)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"batch {index} of 3"):
            batches[index]


def test_streaming_equals_the_array():
    """Whatever the sequence and the threads, the batches are those of the array."""
    array, labels = noise(23, 3, 4, 3), np.arange(23) % 3
    options = {"labels": labels, "batch_size": 5, "flip": True, "seed": 2}
    expected = contents(ImageBatches(array, **options), 1)
    for threads in (1, 4):
        listed = ImageBatches(list(array), threads=threads, **options)
        assert listed.input_shape == (3, 4, 3)
        np.testing.assert_array_equal(contents(listed, 1), expected)


class Logged(ImageBatches):
    """Remembers which epochs' batches were asked for."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.log = []

    def on_epoch_begin(self):
        super().on_epoch_begin()
        self.log.append([])

    def __getitem__(self, index):
        if self.log:
            self.log[-1].append((self.epoch, index))
        return super().__getitem__(index)


def small_model():
    model = keras.Sequential(
        [
            keras.layers.Input((2, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(20, kernel_initializer=keras.initializers.RandomNormal(seed=0)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


def test_fit_takes_each_epoch_once_and_in_order():
    batches = Logged(numbered(20), np.arange(20), 5, flip=True)
    model = small_model()
    for first in (0, 3):  # a new model, which Keras builds by a look at a batch; then a built one
        model.fit(batches, initial_epoch=first, epochs=first + 3, shuffle=False, verbose=0)
        assert batches.epoch == first + 3
        whole = [part for part in batches.log if len(part) == 4]
        assert whole == [[(first + e, i) for i in range(4)] for e in range(3)]
        batches.log.clear()


@pytest.mark.parametrize("count", [5, 10])
def test_epochs_are_counted_alike_whether_keras_builds_the_model_first_or_not(count):
    """Keras builds a model by a look at a batch, which of a set of one batch is the whole epoch."""
    batches, validation = Logged(numbered(count), np.arange(count), 5), numbered(5)
    validation = ImageBatches(validation, np.arange(5), 5, shuffle=False)
    built = None
    for run in range(3):  # a new model, another new one, then a built one
        built = small_model() if run < 2 else built
        batches[0]  # somebody's own look does not count either
        batches.log.clear()
        built.fit(batches, validation_data=validation, epochs=2, shuffle=False, verbose=0)
        assert (batches.epoch, validation.epoch) == (2 * run + 2, 2 * run + 2)
        assert [part[0] for part in batches.log[-2:]] == [(2 * run, 0), (2 * run + 1, 0)]
    built.evaluate(batches, verbose=0)
    assert batches.epoch == 7


def test_an_epoch_that_was_broken_off_does_not_count():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    batches, model = ImageBatches(numbered(20), np.arange(20), 5), small_model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[Stop()])
    assert batches.epoch == 0
    model.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert batches.epoch == 2


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [("float64", (0, 1)), ("float32", (0, 255)), ("uint16", (0, 65535)), ("int64", (-3, 5))],
)
def test_a_value_range_is_scaled_to_the_unit_range(dtype, value_range):
    low, high = value_range
    stored = np.linspace(low, high, 24).astype(dtype).reshape(2, 2, 3, 2)
    scaled = contents(ImageBatches(stored, batch_size=1, shuffle=False, value_range=value_range), 0)
    expected = (stored.astype("float64") - low) / (high - low) * 2 - 1
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, atol=3e-7)


def test_a_resumed_fit_is_the_uninterrupted_one_bit_for_bit():
    def batches():
        return ImageBatches(numbered(20), np.arange(20), 5, flip=True, seed=3)

    straight = small_model()
    straight.fit(batches(), epochs=4, shuffle=False, verbose=0)
    half, resumed = small_model(), small_model()
    half.fit(batches(), epochs=2, shuffle=False, verbose=0)
    resumed.set_weights(half.get_weights())
    rest = batches()
    rest.epoch = 2
    resumed.fit(rest, initial_epoch=2, epochs=4, shuffle=False, verbose=0)
    for a, b, c in zip(*(m.get_weights() for m in (straight, resumed, half)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (b != c).any()


def test_validation_batches_serve_fit():
    train = ImageBatches(numbered(20), np.arange(20), 5)
    validation = ImageBatches(numbered(7), np.arange(7), 3, shuffle=False, drop_remainder=False)
    history = small_model().fit(train, validation_data=validation, epochs=2, verbose=0)
    assert np.isfinite(history.history["val_loss"]).all()
    assert validation.epoch == 2
