"""Laws of the codecs that hold an autoencoder, and of their networks."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import Diffusion, DiTModel, backend
from keras_dit.codecs import Autoencoder, AutoencoderKL
from keras_dit.codecs import autoencoder as codec_module

SMALL = {"channels": (8, 16), "layers_per_block": 1, "groups": 4}
FAST_TO_COMPILE = backend.BACKEND == "jax"  # as a jit_compile=


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return AutoencoderKL(**SMALL)


def test_scale_and_shift_are_used_symmetrically(network):
    scale, shift = (0.5, 2.0, 1.0, 4.0), (0.1, 0.0, -0.3, 1.0)
    codec, raw = Autoencoder(network, scale, shift), Autoencoder(network)
    images = draw(2, 12, 8, 3)
    mean, _ = codec.posterior(images)
    encoded = numpy(codec.encode(images))
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, (numpy(mean) - shift) * scale, atol=1e-6)
    np.testing.assert_allclose(codec.decode(encoded), raw.decode(numpy(mean)), atol=1e-5)
    expected = np.clip(numpy(network.decode(mean)), -1, 1)
    np.testing.assert_allclose(raw.decode(numpy(mean)), expected, atol=1e-5)


def test_a_stored_posterior_is_as_good_as_its_images(network):
    codec = Autoencoder(network, 0.5, 0.25)
    images = draw(3, 8, 8, 3)
    stored = codec.posteriors(images)
    assert stored.shape == (3, 4, 4, 8)
    np.testing.assert_allclose(numpy(codec.encode(stored)), numpy(codec.encode(images)), atol=1e-5)
    drawn = [codec.encode(x, keras.random.SeedGenerator(7)) for x in (stored, images)]
    np.testing.assert_allclose(numpy(drawn[0]), numpy(drawn[1]), atol=1e-5)


def test_samples_have_the_mean_and_the_variance_of_the_posterior(network):
    codec = Autoencoder(network, 2.0, 1.0)
    mean, log_variance = np.full((1, 1, 1, 4), 3.0), np.log(np.array([4.0, 0.25, 1.0, 1e-9]))
    stored = np.concatenate([mean, log_variance.reshape(1, 1, 1, 4)], -1).astype("float32")
    stored = np.broadcast_to(stored, (4096, 1, 1, 8))
    drawn = numpy(codec.encode(stored, keras.random.SeedGenerator(0))).reshape(-1, 4)
    np.testing.assert_allclose(drawn.mean(0), [4.0] * 4, atol=0.25)
    np.testing.assert_allclose(drawn.std(0), [4.0, 1.0, 2.0, 2 * 1e-9**0.5], rtol=0.05)


def test_batches_are_decoded_as_one(network, monkeypatch):
    codec, latents = Autoencoder(network), draw(5, 4, 4, 4)
    whole = codec.decode(latents)
    monkeypatch.setattr(codec_module, "PIXELS", 2 * 64)
    np.testing.assert_allclose(codec.decode(latents), whole, atol=1e-5)
    assert codec.decode(latents[:0]).shape == (0, 8, 8, 3)


def test_the_identity_is_that_of_weights_and_configuration(network):
    codec = Autoencoder(network)
    copy = AutoencoderKL.from_config(network.get_config())
    copy.set_weights(network.get_weights())
    assert Autoencoder(copy, 3.0, 1.0).identity == codec.identity
    weight = copy.weights[3]
    weight.assign(numpy(weight) + 1e-3)
    assert Autoencoder(copy).identity != codec.identity


def test_it_trains_and_is_saved_with_a_diffusion(network, tmp_path):
    codec = Autoencoder(network, 0.5, (0.1, 0.2, 0.3, 0.4))
    before = [numpy(w).copy() for w in network.weights]
    diffusion = Diffusion(DiTModel((4, 6, 4), 2, 16, 1, 2, num_classes=3), codec=codec)
    images, labels = draw(4, 8, 12, 3), np.array([0, 1, 2, 0])
    diffusion.compile("sgd", jit_compile=FAST_TO_COMPILE)
    diffusion.fit(images, labels, batch_size=4, verbose=0)
    diffusion.compile("sgd", jit_compile=FAST_TO_COMPILE)
    diffusion.fit(codec.posteriors(images), labels, batch_size=4, verbose=0)
    with pytest.raises(ValueError, match=r"\(batch, 8, 12, 3\) or \(batch, 4, 6, 8\)"):
        diffusion.fit(images[..., :1], labels, verbose=0)
    assert all(np.array_equal(a, numpy(w)) for a, w in zip(before, network.weights))
    diffusion.save(tmp_path / "latent.keras")
    again = keras.saving.load_model(tmp_path / "latent.keras")
    assert again.codec.identity == codec.identity
    assert (again.codec.scale, again.codec.shift) == (codec.scale, codec.shift)
    assert len(again.trainable_variables) == len(diffusion.trainable_variables)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoencoderKL(**SMALL | {"groups": 3}), "multiples of groups.*groups=3"),
        (lambda: AutoencoderKL(**SMALL | {"layers_per_block": 0}), "layers_per_block must be"),
        (lambda: AutoencoderKL(**SMALL, attention_levels=(2,)), "places in channels, 0 … 1"),
        (lambda: Autoencoder(AutoencoderKL(**SMALL), scale=0.0), "scale must not be 0"),
        (lambda: Autoencoder(AutoencoderKL(**SMALL), scale=(1.0, 2.0)), "or 4 of them"),
        (lambda: Autoencoder(AutoencoderKL(**SMALL), shift=np.nan), "shift must be a finite"),
        (lambda: Autoencoder(keras.layers.Dense(3)), "network must be an autoencoder"),
        (lambda: Autoencoder(AutoencoderKL(8, **SMALL)), "tell them apart"),
    ],
)
def test_what_makes_no_autoencoder_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_size_that_the_factor_does_not_divide_is_refused(network):
    with pytest.raises(ValueError, match=r"multiples of 2. Received: shape \(1, 9, 8, 3\)"):
        Autoencoder(network).posterior(draw(1, 9, 8, 3))


# Tiles


class Exact(AutoencoderKL):
    """Averages of squares and their centres: an autoencoder that looks at each place alone."""

    def encode(self, images):
        mean = ops.average_pool(ops.convert_to_tensor(images), 2, 2)
        mean = ops.concatenate([mean, mean[..., :1]], axis=-1)
        return mean, ops.zeros_like(mean)

    def decode(self, latents):
        return backend.doubled(ops.convert_to_tensor(latents)[..., :3])


@pytest.mark.parametrize("size", [(8, 8), (10, 8), (8, 38), (26, 30)])
def test_tiles_cover_an_image_and_are_joined_without_a_trace(size):
    """Where each place is looked at alone, tiles give what the whole gives."""
    whole, tiled = (Autoencoder(Exact(**SMALL), tile_size=tile) for tile in (None, 8))
    images = draw(2, *size, 3)
    posterior = whole.posteriors(images)
    np.testing.assert_allclose(tiled.posteriors(images), posterior, atol=1e-6)
    latents = posterior[..., :4]
    np.testing.assert_allclose(tiled.decode(latents), whole.decode(latents), atol=1e-6)


def test_larger_tiles_come_nearer_to_the_whole(network):
    """Norms and attention look at all of an image, so that tiles are never quite the whole."""
    image, latents, errors = draw(1, 64, 64, 3), draw(1, 32, 32, 4), []
    for tile in (32, 56):
        whole, tiled = (Autoencoder(network, tile_size=size) for size in (None, tile))
        for run, given in ((Autoencoder.posteriors, image), (Autoencoder.decode, latents)):
            exact = run(whole, given)
            errors.append(np.std(run(tiled, given) - exact) / np.std(exact))
    assert 0.4 > errors[0] > errors[2] > 0
    assert 0.4 > errors[1] > errors[3] > 0


def test_a_codec_for_another_network_is_refused(network):
    with pytest.raises(ValueError, match="latents have 4 channels, and the network is for 3"):
        Diffusion(DiTModel((4, 4, 3), 2, 16, 1, 2), codec=Autoencoder(network))
    with pytest.raises(ValueError, match="tile_size must be None or at least 2"):
        Autoencoder(network, tile_size=1)
