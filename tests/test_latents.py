"""Laws of training on latents: what is kept is what is made, and an autoencoder learns."""

import shutil

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import Diffusion, DiTModel, checkpoints, codecs, datasets
from keras_dit.codecs import Autoencoder, AutoencoderKL, AutoencoderTrainer, cache_latents
from keras_dit.datasets import ImageBatches, LatentFacts, LatentFiles, cached_latents
from keras_dit.training import data
from keras_dit.training.checkpoints.state import variables

COUNT, SIDE = 22, 4
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 1), "uint8")
LABELS = np.arange(COUNT) % 3
NAMES = ("ant", "bee", "cat")


def autoencoder(seed=0):
    """As small as they come, so that it compiles quickly: it does not even shrink images."""
    keras.utils.set_random_seed(seed)
    return AutoencoderKL(1, 2, (4,), 1, groups=2, quant_conv=False, mid_attention=False)


def batches(images=IMAGES, **settings):
    return ImageBatches(images, LABELS[: len(images)], 4, class_names=NAMES, **settings)


def cache(codec, folder, given=None, **settings):
    given = batches() if given is None else given
    return cache_latents(codec, given, folder, flips=True, batch_size=4, **settings)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def codec():
    return codecs.measured(autoencoder(), ImageBatches(IMAGES, batch_size=4))


@pytest.fixture(scope="module")
def folder(codec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "latents"
    cache(codec, folder, path="ae.keras", source="noise")
    return folder


# What is kept


def test_the_posteriors_of_images_and_of_mirrored_images_are_kept(codec, folder):
    files = LatentFiles(folder)
    assert files.facts.class_names == NAMES
    assert files.facts.image_shape == (SIDE, SIDE, 1)
    assert files.facts.autoencoder["identity"] == codec.identity
    images = IMAGES.astype("float32") / 127.5 - 1.0
    for mirrored, seen in ((False, images), (True, images[:, :, ::-1])):
        made = np.concatenate([ops.convert_to_numpy(p) for p in codec.posterior(seen)], -1)
        kept = files.read(np.arange(COUNT), np.full(COUNT, mirrored))
        # To float16's rounding, and that of batches of another size.
        np.testing.assert_allclose(kept, made, rtol=2**-11, atol=2e-5)
    np.testing.assert_array_equal(cached_latents(folder, 4).labels, LABELS)


def test_whatever_is_known_of_an_image_is_kept_with_it(codec, tmp_path):
    ages, tokens = np.arange(COUNT) * 1.5, np.arange(COUNT * 6.0).reshape(COUNT, 3, 2)
    known = {"age": ages, "text": (tokens, tokens[..., 0] > 2), "caption": [f"{i}" for i in LABELS]}
    cache(codec, tmp_path / "a", batches(conditions=known))
    found = cached_latents(tmp_path / "a", 4, validation=0.3)
    for part in (found, found.validation):
        _, y = part.batch(0, 1)
        np.testing.assert_array_equal(y["caption"], [str(label) for label in y["label"]])
        image = (y["age"] / 1.5).astype(int)
        np.testing.assert_array_equal(LABELS[image], y["label"])
        np.testing.assert_array_equal(y["text"][0], tokens[image])
        np.testing.assert_array_equal(y["text"][1], tokens[image, :, 0] > 2)
    with pytest.raises(ValueError, match="was begun with"):
        cache(codec, tmp_path / "a", batches(conditions={**known, "age": ages + 1}))


def test_images_kept_apart_are_encoded_apart(codec, tmp_path):
    whole = batches(IMAGES[:8])
    whole.validation = batches(IMAGES[8:12])
    cache(codec, tmp_path, whole)
    found = cached_latents(tmp_path, 4)
    assert (len(found.images), len(found.validation.images)) == (8, 4)


class Watched:
    """Images that note which of them were read, and one of which is a Ctrl-C."""

    shape = IMAGES.shape

    def __init__(self, end=None):
        self.end, self.read_ones = end, set()

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        if index == self.end:
            raise KeyboardInterrupt
        self.read_ones.add(index)
        return IMAGES[index]


@pytest.mark.parametrize("end", [1, 9, 20])
def test_what_was_stopped_goes_on_and_ends_with_the_same_bytes(codec, folder, tmp_path, end):
    with pytest.raises(KeyboardInterrupt):
        cache(codec, tmp_path, batches(Watched(end)))
    done = LatentFacts.read(tmp_path).done
    assert done == end // 4 * 4
    images = Watched()
    cache(codec, tmp_path, batches(images), path="ae.keras", source="noise")
    assert images.read_ones == {0, COUNT - 1, *range(done, COUNT)}  # the two tell the images
    assert contents(tmp_path) == contents(folder)


def test_other_images_or_another_autoencoder_do_not_go_on(codec, folder):
    with pytest.raises(ValueError, match="was begun with source digest"):
        cache(codec, folder, batches(255 - IMAGES))
    with pytest.raises(ValueError, match="was begun with autoencoder identity"):
        cache(Autoencoder(autoencoder(seed=1)), folder)
    with pytest.raises(ValueError, match="has to be images"):
        cache(codec, folder, cached_latents(folder, 4))


# Training on them


def diffusion(codec, seed=0):
    keras.utils.set_random_seed(seed)
    network = DiTModel((4, 4, 2), 2, 8, 1, 2, num_classes=3)
    model = Diffusion(network, codec=codec, ema=0.9)
    model.compile(keras.optimizers.AdamW(1e-2))
    return model


def test_what_a_step_draws_of_kept_latents_it_draws_of_their_images(codec, folder):
    kept, images = (
        given.batch(1, 2) for given in (cached_latents(folder, 4, flip=False), batches())
    )
    np.testing.assert_array_equal(kept[1], images[1])
    drawn = [codec.encode(x, keras.random.SeedGenerator(3)) for x in (kept[0], images[0])]
    one, two = (ops.convert_to_numpy(x0) for x0 in drawn)
    np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-3)


def test_each_epoch_draws_its_latents_anew(codec, folder):
    posterior = cached_latents(folder, 4, flip=False).batch(0, 0)[0]
    seed = keras.random.SeedGenerator(0)
    one, two = (ops.convert_to_numpy(codec.encode(posterior, seed)) for _ in range(2))
    log_variance = posterior[..., 2:]
    deviation = np.exp(0.5 * log_variance) * np.array(codec.scale)
    apart = (one - two) / deviation / np.sqrt(2)  # of variance 1
    assert 0.7 < apart.std() < 1.3


def test_a_training_goes_on_bit_for_bit_within_an_epoch(codec, folder, tmp_path):
    def train(place):
        model = diffusion(codec)
        saving = checkpoints.Checkpoint(tmp_path / place, every=0, keep=20, resume=True)
        model.fit(cached_latents(folder, 4, seed=5), epochs=2, verbose=0, callbacks=[saving])
        return {n: np.array(ops.convert_to_numpy(v)) for n, v in variables(model).items()}

    whole = train("whole")
    (tmp_path / "stopped").mkdir()
    shutil.copy(tmp_path / "whole" / "step_00000003.safetensors", tmp_path / "stopped")
    again = train("stopped")
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)
    # What no step moves is in no checkpoint.
    held = sum(int(np.prod(w.shape)) for w in codec.network.weights)
    assert not any(name.startswith("state/") and held < np.size(whole[name]) for name in whole)
    assert len([n for n in whole if n.startswith("state/")]) < len(codec.network.weights)


def test_latents_of_another_autoencoder_are_refused_by_name(folder):
    for other in (Autoencoder(autoencoder(seed=1)), codecs.Latents()):
        with pytest.raises(ValueError, match=rf"latents in {folder} are of the autoencoder ae.ker"):
            diffusion(other).fit(cached_latents(folder, 4), verbose=0)


def test_latents_that_are_badly_scaled_are_warned_of(codec, folder):
    far = Autoencoder(codec.network, tuple(10 * s for s in codec.scale), codec.shift)
    with pytest.warns(UserWarning, match=r"have a deviation of (9\.\d+|10) after"):
        data.taken(cached_latents(folder, 4), None, None, diffusion(far).network, far)


# An autoencoder of one's own


def test_both_parts_of_the_loss_are_what_their_formulas_say():
    network = autoencoder()
    trainer = AutoencoderTrainer(network, 0.25, keras.losses.MeanSquaredError())
    trainer.compile(keras.optimizers.SGD(0.0))
    images = IMAGES[:6].astype("float32") / 127.5 - 1.0
    logs = trainer.evaluate(images, batch_size=4, return_dict=True, verbose=0)
    mean, log_variance = (ops.convert_to_numpy(p).astype("float64") for p in network.encode(images))
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    kl = divergence.sum() / images.size
    error = np.mean((ops.convert_to_numpy(network.decode(mean.astype("float32"))) - images) ** 2)
    np.testing.assert_allclose(logs["kl"], 0.25 * kl, rtol=1e-4)
    np.testing.assert_allclose(logs["reconstruction"], error, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], 0.25 * kl + error, rtol=1e-4)


@pytest.fixture(scope="module")
def trained():
    images, _ = datasets.load_digits()
    trainer = AutoencoderTrainer(autoencoder(), kl_weight=1e-4)
    trainer.compile(keras.optimizers.AdamW(1e-2))
    history = trainer.fit(images[:512], batch_size=32, epochs=3, verbose=0).history
    return trainer, history, images[1024:1280]


def test_it_learns_to_give_back_images_that_it_has_not_seen(trained):
    trainer, history, others = trained
    losses = history["reconstruction"]
    assert losses[-1] < 0.75 * losses[0]
    back = codecs.reconstructed(Autoencoder(trainer.network), others)
    constant = np.mean(np.abs(others - others.mean(0)))
    assert np.mean(np.abs(back - others)) < 0.7 * constant


def test_measured_latents_have_mean_0_and_deviation_1_in_each_channel(trained):
    trainer, _, images = trained
    codec = codecs.measured(trainer.network, images)
    drawn = ops.convert_to_numpy(codec.encode(images, keras.random.SeedGenerator(0)))
    np.testing.assert_allclose(drawn.mean((0, 1, 2)), 0.0, atol=0.02)
    np.testing.assert_allclose(drawn.std((0, 1, 2)), 1.0, atol=0.02)


def test_a_file_keeps_weights_scale_and_shift(trained, tmp_path):
    trainer, _, images = trained
    codec = codecs.measured(trainer.network, images)
    codec.save(tmp_path / "ae.keras")
    found = Autoencoder.from_preset(tmp_path / "ae.keras")
    assert (found.identity, found.scale, found.shift) == (codec.identity, codec.scale, codec.shift)


def test_what_makes_no_training_of_an_autoencoder_is_refused():
    with pytest.raises(ValueError, match="kl_weight must be finite, 0 or more"):
        AutoencoderTrainer(autoencoder(), kl_weight=-1.0)
    with pytest.raises(ValueError, match="the loss is AutoencoderTrainer"):
        AutoencoderTrainer(autoencoder()).compile(loss="mse")
