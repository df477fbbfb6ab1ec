"""Laws of the codecs that hold an autoencoder, and of their networks."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import Diffusion, DiTModel, backend
from keras_dit.codecs import Autoencoder, AutoencoderKL, AutoencoderTiny, tiles
from keras_dit.codecs import autoencoder as codec_module
from keras_dit.layers import GroupNorm

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


def uneven(*shape):
    """Noise of which one corner is quite unlike the rest."""
    given = draw(*shape)
    given[:, : shape[1] // 3, : shape[2] // 4] = 2.0
    return given


TOLERANCE = 5e-5  # of the largest number: as docs/autoencoders.md says


@pytest.mark.parametrize(
    "make",
    [
        lambda: AutoencoderKL(**SMALL, attention_levels=(1,)),
        lambda: AutoencoderKL(1, 3, (4,), 1, 2, quant_conv=False),
        lambda: AutoencoderTiny(width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)),
    ],
)
def test_tiles_give_what_the_whole_gives(make, monkeypatch):
    monkeypatch.setattr(tiles, "PAIRS", 2**15)  # so that attention takes several steps
    keras.utils.set_random_seed(0)
    network = make()
    for weight in network.weights:
        if len(weight.shape) == 1:  # gains and biases, which are 1 and 0 of a new one
            weight.assign(numpy(weight) + 0.3 * draw(*weight.shape))
    whole, tiled = (Autoencoder(network, tile_size=tile) for tile in (None, 16))
    image, side = uneven(1, 30, 40, network.in_channels), network.factor
    latents = uneven(1, 30 // side, 40 // side, network.latent_channels)
    for run, given in ((Autoencoder.posteriors, image), (Autoencoder.decode, latents)):
        exact = run(whole, given)
        assert np.abs(run(tiled, given) - exact).max() < TOLERANCE * np.abs(exact).max()
    assert "_tiled_encoder" in vars(tiled) and "_tiled_decoder" in vars(tiled)
    assert not {"_tiled_encoder", "_tiled_decoder"} & set(vars(whole))


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_each_place_counts_in_one_tile_and_far_from_its_cut_edges(margin):
    for side in range(1, 60):
        spans = tiles._spans(side, 13, margin)
        assert [n for s in spans for n in range(s.first, s.last)] == list(range(side))
        assert len({s.stop - s.start for s in spans}) == 1
        assert spans[0].start == 0 and spans[-1].stop == side
        assert spans[0].stop <= 13
        for s in spans:
            assert s.start == 0 or s.first - s.start >= margin
            assert s.stop == side or s.stop - s.last >= margin


def test_a_norm_of_a_large_image_loses_no_digits():
    """As torch's own does, by more than 1e-3 at this size."""
    image, norm = draw(1, 1024, 768, 4) + 1, GroupNorm(2)
    exact = image.astype("float64").reshape(1024, 768, 2, 2)
    exact = exact - exact.mean((0, 1, 3))[:, None]
    exact = exact / np.sqrt(np.mean(exact**2, (0, 1, 3))[:, None] + norm.epsilon)
    np.testing.assert_allclose(numpy(norm(image)), exact.reshape(image.shape), atol=2e-5)


def test_a_network_that_does_not_say_its_steps_is_run_whole():
    class Own(keras.Layer):
        in_channels, latent_channels, factor = 1, 1, 1

        def encode(self, images):
            return images - ops.mean(images), 0 * images

        def decode(self, latents):
            return latents / 4

    codec, images = Autoencoder(Own(), tile_size=4), draw(1, 8, 8, 1)
    posterior = codec.posteriors(images)
    np.testing.assert_allclose(posterior[..., :1], images - images.mean(), atol=1e-6)
    np.testing.assert_allclose(codec.decode(images), images / 4, atol=1e-6)


def test_a_codec_for_another_network_is_refused(network):
    with pytest.raises(ValueError, match="latents have 4 channels, and the network is for 3"):
        Diffusion(DiTModel((4, 4, 3), 2, 16, 1, 2), codec=Autoencoder(network))
    with pytest.raises(ValueError, match="tile_size must be None or at least 2"):
        Autoencoder(network, tile_size=1)
