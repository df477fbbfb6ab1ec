"""Laws of keras_dit.codecs: pictures come back, and what the network sees is of unit size."""

import math

import numpy as np
import pytest
from keras import ops

from keras_dit.codecs import Latents, Pixels


def encode(codec, images):
    encoded = ops.convert_to_numpy(codec.encode(ops.convert_to_tensor(images)))
    assert encoded.dtype == np.float32
    return encoded


def test_bytes_come_back_exactly():
    every = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    codec = Pixels(0, 255)
    encoded = encode(codec, every)
    assert (encoded.min(), encoded.max()) == (-1.0, 1.0)
    decoded = codec.decode(encoded)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(np.round(decoded), every)
    np.testing.assert_allclose(decoded, every, atol=2e-5)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_pixels_map_their_range_onto_minus_one_to_one(low, high):
    codec = Pixels(low, high)
    images = np.linspace(low, high, 11, dtype="float32").reshape(1, 11, 1, 1)
    encoded = encode(codec, images)
    np.testing.assert_allclose(encoded.ravel(), np.linspace(-1, 1, 11), atol=1e-6)
    np.testing.assert_allclose(codec.decode(encoded), images, atol=2e-6)


def test_pixels_clip_what_the_sampler_overshoots():
    decoded = Pixels(0, 255).decode(np.array([-1.5, -1.0, 0.0, 1.0, 9.0], "float32"))
    np.testing.assert_allclose(decoded, [0, 0, 127.5, 255, 255])


@pytest.mark.parametrize("scale", [0.18215, 1.0, 2.5])
def test_latents_are_scaled_and_never_clipped(scale):
    latents = np.linspace(-30, 30, 12, dtype="float32").reshape(1, 2, 2, 3)
    encoded = encode(Latents(scale), latents)
    np.testing.assert_allclose(encoded, scale * latents, rtol=1e-6)
    decoded = Latents(scale).decode(encoded)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, latents, rtol=1e-6)
    assert (Latents().low, Latents().high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pixels(1.0, 1.0), r"low must be below high.*low=1.0, high=1.0"),
        (lambda: Pixels(0.0, math.inf), "both finite"),
        (lambda: Pixels(math.nan, 1.0), "both finite"),
        (lambda: Latents(0.0), "scale must be positive and finite. Received: scale=0.0"),
        (lambda: Latents(math.inf), "scale=inf"),
    ],
)
def test_ranges_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
