"""The FID's Inception: equal to torch-fidelity's, run beside on the same random weights."""

import pathlib

import inception_weights
import numpy as np
import pytest
from keras import ops

from keras_dit import evaluation, images
from keras_dit.evaluation import inception
from keras_dit.weights import files

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "inception.npz"


def stored(name, shape):
    value = inception_weights.tensor(name, shape)
    return files.Stored(shape, lambda: value)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The network from a file of the rule's weights, which lies there for this alone."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    tensors = {name: stored(name, shape) for name, shape in inception.Inception()._shapes().items()}
    files.write(tensors, path)
    yield evaluation.Inception.from_file(path)
    path.unlink()


@pytest.fixture(scope="module")
def found(network):
    outputs = [network(batch) for batch in inception_weights.images()]
    return {
        name: np.concatenate([ops.convert_to_numpy(output[name]) for output in outputs])
        for name in outputs[0]
    }


@pytest.mark.parametrize("name", ["pool", "logits", "logits_unbiased", "spatial"])
def test_features_are_those_of_torch_fidelity(found, name):
    """To 1e-4 of the features' size, for an image that is enlarged and one that is reduced."""
    with np.load(GOLDEN) as golden:
        expected = golden[name]
    assert found[name].shape == expected.shape
    scale = np.abs(expected).mean()
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-4 * scale)


def test_features_do_not_depend_on_the_batch(network, found):
    """Nor on how the network is run: compiled, three at once, one of them padding."""
    small = inception_weights.images()[0]
    others = np.random.RandomState(1).randint(0, 256, (1, *small.shape[1:])).astype("uint8")
    together = evaluation.Network(network, batch_size=3)(np.concatenate([others, small]))
    for name, values in together.items():
        scale = np.abs(found[name][:1]).mean()
        np.testing.assert_allclose(values[1], found[name][0], rtol=1e-5, atol=1e-5 * scale)


def test_the_network_itself_gives_the_same_for_one_image_and_for_many(network, found):
    small = inception_weights.images()[0]
    others = np.random.RandomState(2).randint(0, 256, (16, *small.shape[1:])).astype("uint8")
    together = network(np.concatenate([others, small]))
    for name, values in together.items():
        scale = np.abs(found[name][:1]).mean()
        last = ops.convert_to_numpy(values)[-1]
        np.testing.assert_allclose(last, found[name][0], rtol=1e-5, atol=1e-5 * scale)


def test_the_resize_is_that_of_tensorflow_1():
    """Pixel i lies at i · size / 299: a ramp stays one up to its last pixel, which repeats."""
    ramp = np.arange(23, dtype="float32")[None, :, None, None] * np.ones((1, 1, 5, 1), "float32")
    found = ops.convert_to_numpy(inception.resized(ops.convert_to_tensor(ramp)))
    expected = np.minimum(np.arange(299) * 23 / 299, 22)
    np.testing.assert_allclose(found[0, :, 7, 0], expected, atol=1e-5)


def test_without_its_file_the_error_says_where_it_is(tmp_path):
    for path in (None, tmp_path / "nothing.pth"):
        with pytest.raises(FileNotFoundError, match=r"https://github.com/toshas/.*6726825d\.pth"):
            evaluation.Inception.from_file(path)


def test_files_of_something_else_are_refused(tmp_path):
    files.write({"fc.bias": stored("fc.bias", (1008,))}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"holds no weights of the Inception .* it lacks"):
        evaluation.Inception.from_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 8, 8, 3), "float32"), "must be uint8; .*to_uint8.*dtype=float32"),
        (np.zeros((1, 8, 8, 4), "uint8"), r"must be of shape \(B, H, W, 3\)"),
    ],
)
def test_images_of_another_kind_are_refused(network, batch, message):
    with pytest.raises(ValueError, match=message):
        network(batch)


def test_grey_images_are_taken_as_colour(network, found):
    grey = images.to_uint8(np.linspace(-1, 1, 64, dtype="float32").reshape(1, 8, 8, 1))
    once, thrice = network(grey)["pool"], network(np.repeat(grey, 3, axis=-1))["pool"]
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (once, thrice)), rtol=1e-6, atol=1e-6)
