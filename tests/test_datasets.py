"""Laws of keras_dit.datasets: what is loaded, how it is split, and by what name it is found."""

import gzip

import numpy as np
import pytest

from keras_dit import datasets, images


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


# The embedded digits


def test_digits_are_what_the_source_says():
    pictures, labels = datasets.load_digits()
    assert (pictures.shape, pictures.dtype) == ((1797, 8, 8, 1), np.float32)
    assert (labels.shape, labels.dtype) == ((1797,), np.int32)
    assert (pictures.min(), pictures.max()) == (-1.0, 1.0)
    assert (pictures * 8 == np.round(pictures * 8)).all()  # seventeen levels
    # The counts of the test set in the description of the UCI repository.
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(labels).tolist() == counts


# split


def test_split_parts_the_set_with_the_same_share_of_every_class():
    pictures, labels = datasets.load_digits()
    (a, labels_a), (b, labels_b) = datasets.split(pictures, labels, 0.25, seed=3)
    assert np.abs(np.bincount(labels_a) - 0.25 * np.bincount(labels)).max() <= 0.5
    both = np.concatenate([a, b]), np.concatenate([labels_a, labels_b])
    assert both[1].dtype == np.int32

    def rows(x, y):
        return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))

    assert rows(*both) == rows(pictures, labels)
    position = {image.tobytes(): i for i, image in enumerate(pictures)}
    for part in (a, b):  # shuffled: neither class by class nor in the order of the source
        order = np.array([position[image.tobytes()] for image in part])
        assert 0.4 < (np.diff(order) > 0).mean() < 0.6


def test_split_depends_on_the_seed_alone():
    x, y = np.arange(40), np.arange(40) % 4
    first, again, other = (datasets.split(x, y, seed=seed)[0][0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_split_keeps_small_classes_on_both_sides():
    labels = np.repeat(np.arange(30), 2)
    (_, a), (_, b) = datasets.split(labels, labels, 0.99)
    assert sorted(a) == sorted(b) == list(range(30))


@pytest.mark.parametrize(
    ("labels", "fraction", "seed", "message"),
    [
        ([0, 1], 0.5, 0, r"labels must be of shape \(4,\), one for each image. Received"),
        ([0.0, 1.0, 0.0, 1.0], 0.5, 0, "labels must be integers of at least 0.*float64"),
        ([0, 1, -1, 1], 0.5, 0, "minimum=-1"),
        ([0, 1, 0, 1], 0.0, 0, "fraction must be between 0 and 1. Received: fraction=0.0"),
        ([0, 1, 0, 1], 1.0, 0, "fraction must be between 0 and 1"),
        ([0, 1, 2, 3], 0.1, 0, "fraction leaves one part empty. Received: fraction=0.1, 4 images"),
        ([0, 1, 0, 1], 0.5, -1, "seed must be an integer of 0 or more.* Received: seed=-1"),
        ([0, 1, 0, 1], 0.5, 0.5, "seed must be an integer"),
    ],
)
def test_split_refuses_bad_arguments(labels, fraction, seed, message):
    with pytest.raises(ValueError, match=message):
        datasets.split(np.zeros((4, 2, 2, 1)), labels, fraction, seed)


# Fashion-MNIST and IDX files


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx_folder(tmp_path):
    """Twelve training images in plain files, six test images in compressed ones."""
    write_idx(tmp_path / "train-images-idx3-ubyte", noise(12, 5, 4, seed=1))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(12, dtype="uint8") % 3)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", noise(6, 5, 4, seed=2))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(6, dtype="uint8") % 3)
    return tmp_path


def test_idx_files_plain_and_compressed(idx_folder):
    for split, count, seed in (("train", 12, 1), ("test", 6, 2)):
        pictures, labels = datasets.load_fashion_mnist(idx_folder, split)
        assert (pictures.dtype, labels.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(
            images.to_uint8(pictures)[..., 0], noise(count, 5, 4, seed=seed)
        )
        np.testing.assert_array_equal(labels, np.arange(count) % 3)


def test_the_installed_fashion_mnist():
    folder = "/usr/share/datasets/fashion-mnist"
    try:
        pictures, labels = datasets.load_fashion_mnist(folder, "test")
    except FileNotFoundError:
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    assert pictures.shape == (10000, 28, 28, 1)
    assert np.bincount(labels).tolist() == [1000] * 10
    assert len(datasets.FASHION_MNIST_CLASSES) == 10
    np.testing.assert_array_equal(datasets.load_fashion_mnist(split="test")[1], labels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"needs 240 bytes, 239 follow"),
        (lambda data: data + b"x", r"needs 240 bytes, 241 follow"),
        (lambda data: b"\x00\x00\x09" + data[3:], r"it must begin with b'\\x00\\x00\\x08\\x03'"),
        (lambda data: data[:3] + b"\x01" + data[4:], r"it must begin with b'\\x00\\x00\\x08\\x03'"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "needs 79228162458924105385300197375"),
        (lambda data: data[:10], "10 bytes"),
        (lambda data: b"", "0 bytes"),
    ],
)
def test_a_corrupt_idx_file_is_named(idx_folder, damage, message):
    path = idx_folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"corrupt IDX file {path}: .*{message}"):
        datasets.load_fashion_mnist(idx_folder)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no gzip"])
def test_a_corrupt_gzip_is_named(idx_folder, damage):
    path = idx_folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"corrupt IDX file {path}: "):
        datasets.load_fashion_mnist(idx_folder, "test")


def test_idx_files_that_do_not_belong_together(idx_folder):
    path = idx_folder / "train-labels-idx1-ubyte"
    write_idx(path, np.zeros(11, "uint8"))
    with pytest.raises(ValueError, match=f"{path} holds 11 labels for 12 images"):
        datasets.load_fashion_mnist(idx_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected train-labels-idx1-ubyte or .*\.gz in"):
        datasets.load_fashion_mnist(idx_folder)
    with pytest.raises(
        ValueError, match=r"split must be 'train' or 'test'\. Received: split='valid'"
    ):
        datasets.load_fashion_mnist(idx_folder, "valid")


# The chooser


def test_load_finds_what_is_read_whole(idx_folder):
    digits = datasets.load("digits", 100)
    assert (digits.input_shape, digits.num_classes, len(digits)) == ((8, 8, 1), 10, 17)
    assert digits.class_names == tuple("0123456789")
    idx = datasets.load(idx_folder, 4, image_size=(5, 4))
    assert (idx.input_shape, idx.num_classes, len(idx)) == ((5, 4, 1), 3, 3)
    assert idx.images.dtype == np.uint8  # bytes until they are asked for


def test_load_refuses_unknown_names_with_the_nearest_first():
    with pytest.raises(
        ValueError, match=r"one of digits, captioned-digits, fashion-mnist, or .* Received: 'digts'"
    ):
        datasets.load("digts")
    with pytest.raises(ValueError, match="one of fashion-mnist, captioned-digits, digits, or an"):
        datasets.load("fashion_mnist")


def test_load_refuses_sizes_it_cannot_give():
    with pytest.raises(ValueError, match=r"must be None or \(8, 8\) .*Received: image_size=16"):
        datasets.load("digits", image_size=16)


def test_load_names_a_missing_idx_file(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="expected train-labels-idx1-ubyte"):
        datasets.load(idx_folder)
