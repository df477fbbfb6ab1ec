"""Laws of images of several sizes: one network, one training, batches of one size each."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from PIL import Image

from keras_dit import adapt, datasets, images, layers
from keras_dit.caching import PeriodicCache
from keras_dit.checkpoints import Checkpoint
from keras_dit.cli import main
from keras_dit.codecs import Autoencoder, AutoencoderKL, cache_latents
from keras_dit.datasets import buckets
from keras_dit.datasets.parts import Rows
from keras_dit.diffusion import Diffusion
from keras_dit.networks import DiTModel

SIZES = ((8, 8), (4, 12), (12, 4))
TURNED = layers.SelfAttention(2, positions=layers.Rotary())
PARTS = {
    "plain": {"num_heads": 2},
    "rotary": {"block": layers.AdaLNBlock(attention=TURNED, mlp_ratio=2)},
    "tokens in front": {"num_heads": 2, "in_context": layers.InContextTokens(2)},
    "remat": {"num_heads": 2, "remat": True},
}


def network(sizes=SIZES, **parts):
    parts = {"depth": 2, **(parts or {"num_heads": 2})}
    size = {"patch_size": 2, "hidden_size": 16, "num_classes": 3}
    made = DiTModel((*sizes[0], 1), image_sizes=sizes, **size, **parts)
    rng = np.random.default_rng(0)
    for weight in made.trainable_weights:
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape))
    return made


def weights(model):
    return [ops.convert_to_numpy(weight) for weight in model.network.trainable_weights]


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 1)).astype("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images, of 16 x 16, 10 x 29 and 30 x 10 in turn, in two classes."""
    place = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = ((16, 16), (10, 29), (30, 10))[i % 3]
        (place / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 255, (height, width), "uint8")
        Image.fromarray(values).save(place / "ab"[i % 2] / f"{i:02d}.png")
    return place


def batches_in(folder, **chosen):
    chosen = {"batch_size": 2, "channels": 1, "image_size": SIZES, **chosen}
    return datasets.load(folder, **chosen)


# The network


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("training", (False, True))
def test_at_each_size_it_is_what_resizing_makes_of_it(parts, training):
    whole = network(**parts)
    for height, width in SIZES:
        own = adapt.resize(whole, input_shape=(height, width, 1), say=None)
        assert own.sizes == ((height, width),)
        given = pictures(2, height, width), np.array([3.0, 700.0]), np.array([0, 2])
        told = {"training": training, "dropped": {}}
        here, there = (ops.convert_to_numpy(each(*given, **told)) for each in (whole, own))
        assert here.shape == (2, height, width, 1)
        np.testing.assert_array_equal(here, there)


def test_hidden_tokens_are_those_of_the_size():
    _, kept = network()(pictures(1, 4, 12), np.zeros(1), np.zeros(1, int), hidden=(1, 2))
    assert [tuple(tokens.shape) for tokens in kept] == [(1, 12, 16)] * 2


def test_another_size_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"8 x 8 or 4 x 12 or 12 x 4.*Received: 8 x 12"):
        network()(pictures(1, 8, 12), np.zeros(1))


@pytest.mark.parametrize("sizes", ([(8, 9)], [8], [(8, 8, 1)], 8))
def test_sizes_that_are_none(sizes):
    with pytest.raises(ValueError):
        DiTModel((8, 8, 1), 2, 16, 1, 2, image_sizes=sizes)


def test_sizes_are_kept_in_a_file(tmp_path):
    model = Diffusion(network())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.network.sizes == SIZES
    assert "image_sizes" not in DiTModel((8, 8, 1), 2, 16, 1, 2).get_config()


@pytest.mark.parametrize("cache", (None, PeriodicCache(2)))
def test_it_samples_each_size_as_the_resized_network_does(cache):
    model = Diffusion(network(), ema=None)
    for size in SIZES[1:2]:
        own = adapt.resize(model.network, input_shape=(*size, 1), say=None)
        alone = Diffusion(own, process=model.process, ema=None)
        asked = {"labels": [0, 1, 2], "steps": 4, "seed": 5, "cache": cache}
        np.testing.assert_array_equal(
            model.generate(**asked, image_size=size), alone.generate(**asked)
        )
    assert model.generate([1], steps=1).shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match=r"8 x 8 or 4 x 12 or 12 x 4"):
        model.generate([1], image_size=16)


# A step


def test_a_step_on_a_batch_is_that_of_the_resized_network():
    size = SIZES[1]
    model = Diffusion(network(num_heads=2, depth=1, condition_dropout=0.0), ema=0.9)
    own = adapt.resize(model.network, input_shape=(*size, 1), say=None)
    alone, before = Diffusion(own, ema=0.9), weights(model)
    for each in (model, alone):
        each.training_seed.state.assign(np.array([1, 0], "uint32"))
        each.compile(keras.optimizers.SGD(0.1))
        each.train_on_batch(pictures(4, *size), np.array([0, 1, 2, 0]))
    for ours, theirs, old in zip(weights(model), weights(alone), before):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        assert not np.array_equal(ours, old)


# Batches


@given(
    st.tuples(*[st.integers(1, 999)] * 2),
    st.lists(st.tuples(*[st.integers(1, 99)] * 2), min_size=1),
)
@settings(deadline=None)
def test_no_other_size_shows_more_of_an_image(image, sizes):
    def shown(size):
        """The share of the image in the largest cut of these proportions."""
        down, across = image[0] / size[0], image[1] / size[1]
        return min(down, across) ** 2 * size[0] * size[1] / (image[0] * image[1])

    best = buckets.best_size(image, sizes)
    assert shown(sizes[best]) >= max(map(shown, sizes)) - 1e-6


def test_of_sizes_alike_the_largest_that_the_image_fills():
    sizes = [(32, 32), (64, 64), (128, 128)]
    found = [buckets.best_size((side, side), sizes) for side in (20, 32, 100, 500)]
    assert found == [0, 0, 1, 2]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array),
    st.integers(1, 9),
    st.booleans(),
)
def test_each_batch_is_of_one_size_and_no_image_comes_twice(sizes, batch_size, drops):
    order = np.random.default_rng(0).permutation(len(sizes))
    made = buckets.batches(sizes, order, batch_size, drops)
    assert all(len(set(sizes[batch])) == 1 for batch in made)
    assert sorted(map(len, made)) == sorted(buckets.counts(sizes, batch_size, drops))
    seen = np.concatenate([np.zeros(0, int), *made])
    assert len(set(seen)) == len(seen)
    if drops:
        lost = sum(int(count) % batch_size for count in np.bincount(sizes))
        assert len(seen) == len(sizes) - lost
        assert all(len(batch) == batch_size for batch in made)
    else:
        assert len(seen) == len(sizes)


def test_a_folder_is_read_at_the_size_of_each_image(folder):
    data = batches_in(folder)
    assert data.image_sizes == SIZES and data.input_shape == (8, 8, 1)
    assert data.images.buckets.tolist() == [0, 2, 1, 0, 2, 1, 1, 0, 2, 1, 0, 2]  # by class
    for epoch in range(2):
        made = [data.batch(epoch, i) for i in range(len(data))]
        assert sorted(batch[0].shape[1:3] for batch in made) == sorted(SIZES * 2)
        again = batches_in(folder)
        for i, batch in enumerate(made):
            np.testing.assert_array_equal(batch[0], again.batch(epoch, i)[0])
    first, second = ([data.batch(e, i)[0].shape[1] for i in range(6)] for e in (0, 1))
    assert first != second  # the sizes come in another order


def test_an_image_of_its_batch_is_that_image_at_its_size(folder):
    data = batches_in(folder, batch_size=1)
    want = {}
    for path, bucket in zip(data.images.paths, data.images.buckets, strict=True):
        value = images.from_uint8(images.read(path, SIZES[bucket], 1))
        want[value.tobytes()] = path
    seen = [want[data.batch(0, i)[0][0].tobytes()] for i in range(len(data))]
    assert sorted(seen) == sorted(data.images.paths)


def test_the_share_for_validation_has_sizes_too(folder):
    data = batches_in(folder, validation=0.25, batch_size=1)
    held = data.validation
    assert len(held) == len(held.images) and held.image_sizes == data.image_sizes
    assert all(held.batch(0, i)[0].shape[1:3] in SIZES for i in range(len(held)))


def test_a_size_without_a_whole_batch_is_left_out(folder):
    with pytest.warns(UserWarning, match="of 16 x 4 there are fewer images than a batch"):
        data = batches_in(folder, image_size=[(8, 8), (4, 12), (12, 4), (16, 4)])
    assert data.image_sizes == SIZES


def test_a_photograph_on_its_side_has_the_size_that_is_seen(tmp_path):
    picture = Image.new("L", (10, 30))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "side.jpg", exif=exif)
    assert images.size(tmp_path / "side.jpg") == (10, 30)
    assert images.read(tmp_path / "side.jpg").shape[:2] == (10, 30)


# Training


class Slow(keras.utils.PyDataset):
    """Batches of a user's own, the third of another size."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.ends = sizes, 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return pictures(4, *self.sizes[index], seed=index), np.array([0, 1, 2, 0])

    def on_epoch_end(self):
        self.ends += 1


def started(seed=3):
    keras.utils.set_random_seed(seed)
    model = Diffusion(network(num_heads=2, depth=1), ema=0.9)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def trained(data, epochs=1, **arguments):
    model = started()
    history = model.fit(data, epochs=epochs, verbose=0, **arguments)
    return model, history.history


def test_fit_takes_batches_of_all_sizes_in_any_order():
    data = Slow([SIZES[0], SIZES[0], SIZES[1]])
    model, history = trained(data, epochs=2, validation_data=Slow([SIZES[2]] * 2 + [SIZES[0]]))
    assert all(math.isfinite(loss) for loss in history["loss"] + history["val_loss"])
    assert int(model.optimizer.iterations) == 6 and int(model.skipped) == 0
    assert data.ends >= 2  # Keras says so as ever
    # Step by step it comes to the same.
    other = started()
    for _ in range(2):
        for index in range(len(data)):
            other.train_on_batch(*data[index])
    for ours, theirs in zip(weights(model), weights(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def test_evaluation_sees_all_sizes_and_says_the_same_again():
    model = Diffusion(network(num_heads=2, depth=1), ema=None)
    model.compile()
    whole = model.evaluate(Slow(SIZES[:2]), verbose=0)
    first = model.evaluate(Slow(SIZES[:1]), verbose=0)
    assert math.isfinite(whole) and whole != pytest.approx(first, abs=1e-6)
    assert whole == model.evaluate(Slow(SIZES[:2]), verbose=0)


def test_a_batch_of_another_size_stops_a_training():
    with pytest.raises(Exception, match="Received: 6 x 6"):
        trained(Slow([SIZES[0], SIZES[1], (6, 6)]))


def test_a_run_goes_on_exactly(folder, tmp_path):
    two = {"image_size": SIZES[:2]}
    whole, _ = trained(batches_in(folder, **two), epochs=3)

    class Stop(keras.callbacks.Callback):
        left = 8

        def on_train_batch_end(self, batch, logs=None):
            Stop.left -= 1
            if not Stop.left:
                raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "kept", every=0)
    with pytest.raises(KeyboardInterrupt):
        trained(batches_in(folder, **two), epochs=3, callbacks=[Stop(), kept])
    model = started(seed=99)
    again = Checkpoint(tmp_path / "kept", every=0, resume=True)
    model.fit(batches_in(folder, **two), epochs=3, verbose=0, callbacks=[again])
    for ours, theirs in zip(weights(model), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Latents


@pytest.fixture(scope="module")
def codec():
    keras.utils.set_random_seed(0)
    made = AutoencoderKL(1, 2, (4,), 1, groups=2, quant_conv=False, mid_attention=False)
    return Autoencoder(made)


@pytest.fixture(scope="module")
def latents(folder, codec, tmp_path_factory):
    place = tmp_path_factory.mktemp("latents") / "all"
    data = batches_in(folder, validation=0.25, batch_size=1, image_size=SIZES[:2])
    cache_latents(codec, data, place, batch_size=4)
    return place


def test_latents_of_each_size_are_those_of_its_images_alone(folder, codec, latents, tmp_path):
    data = batches_in(folder, validation=0.25, batch_size=1, image_size=SIZES[:2])
    places = datasets.latent_folders(latents)
    assert [place.name for place in places] == ["0-8x8", "1-4x12"]
    for part, place in zip(data.of_each_size(), places, strict=True):
        assert len({part.batch(0, i)[0].shape for i in range(len(part))}) == 1
        cache_latents(codec, part, tmp_path / place.name, batch_size=4)
        names = [path.relative_to(place) for path in place.rglob("*.npy")]
        assert names
        for name in names:
            assert (place / name).read_bytes() == (tmp_path / place.name / name).read_bytes()


def test_latents_of_several_sizes_are_read_as_their_folders_are(latents):
    whole = datasets.cached_latents(latents, batch_size=1)
    parts = [datasets.cached_latents(one, batch_size=1) for one in datasets.latent_folders(latents)]
    assert whole.image_sizes == SIZES[:2] and whole.num_classes == 2
    assert len(whole.images) == sum(len(part.images) for part in parts)
    apart = [part.validation for part in parts if part.validation is not None]
    assert len(whole.validation.images) == sum(len(part.images) for part in apart) > 0
    held = {}
    for part in parts:
        for i in range(len(part)):
            values, labels = part.batch(0, i)
            held[values.tobytes()] = int(labels[0])
    for i in range(len(whole)):
        values, labels = whole.batch(3, i)
        assert held.pop(values.tobytes()) == int(labels[0])
    assert not held
    # The statistics are of all together.
    drawn = [part.images.facts for part in parts]
    mean = np.average([f.mean for f in drawn], axis=0, weights=[f.count for f in drawn])
    np.testing.assert_allclose(whole.images.facts.mean, mean, rtol=1e-6)
    assert min(f.deviation[0] for f in drawn) * 0.9 < whole.images.facts.deviation[0]
    with pytest.raises(ValueError, match="fewer than a batch of 9"):
        datasets.cached_latents(latents, batch_size=9)


def test_rows_of_arrays_are_those_of_their_concatenation():
    arrays = [np.arange(4).reshape(2, 2), np.arange(10, 16).reshape(3, 2)]
    rows, whole = Rows(arrays), np.concatenate(arrays)
    chosen = np.array([4, 0, 2, 2, 1])
    assert rows.shape == whole.shape and len(rows) == len(whole)
    np.testing.assert_array_equal(rows[chosen], whole[chosen])


def test_a_network_of_latents_trains_on_all_sizes_and_makes_images_of_each(codec, latents):
    data = datasets.cached_latents(latents, batch_size=1)
    keras.utils.set_random_seed(0)
    made = DiTModel((8, 8, 2), 2, 16, 1, 2, num_classes=2, image_sizes=SIZES[:2])
    model = Diffusion(made, codec=codec, ema=None)
    model.compile()
    history = model.fit(data, verbose=0)
    assert math.isfinite(history.history["loss"][0])
    assert model.generate([0], steps=1, image_size=(4, 12)).shape == (1, 4, 12, 1)


# The command


def test_the_command_trains_on_several_sizes_and_samples_each(folder, tmp_path):
    run, out = tmp_path / "run", tmp_path / "images"
    data = ["--data", folder, "--image-size", "8,4x12,12x4", "--channels", 1, "--batch-size", 2]
    tiny = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--epochs", 1]
    for arguments in (
        ["train", *data, *tiny, "--run", run],
        ["train", "--resume", "--run", run, "--epochs", 2],
        ["sample", run, "--image-size", "4x12", "--num-images", 2, "--steps", 2, "--out", out],
    ):
        assert main([str(argument) for argument in arguments]) == 0
    assert keras.saving.load_model(run / "model.keras").network.sizes == SIZES
    assert {images.size(path) for path in out.glob("*.png")} == {(4, 12)}
