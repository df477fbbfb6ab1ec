"""Laws of `datasets.load`: every kind of source, parts of it, and what it says."""

import pickle

import numpy as np
import pytest

import keras_dit
from keras_dit import datasets, images


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def stored(path, **arrays):
    np.savez(path, **arrays)
    return path


def content(batches):
    """Images and labels in the order of their pixels."""
    whole = [np.concatenate(part) for part in zip(*batches, strict=True)]
    order = np.argsort([image.tobytes() for image in whole[0]])
    return [part[order] for part in whole]


# Arrays


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
@pytest.mark.parametrize("column", [False, True])
def test_npz_files_of_images_and_labels(tmp_path, names, column):
    pixels, labels = noise(12, 6, 4, 3), np.arange(12) % 3
    arrays = dict(zip(names, (pixels, labels[:, None] if column else labels), strict=True))
    data = datasets.load(stored(tmp_path / "a.npz", **arrays), 4)
    assert (data.input_shape, data.num_classes, data.class_names) == ((6, 4, 3), 3, ("0", "1", "2"))
    expected = datasets.ImageBatches(pixels, labels, 4)
    for a, b in zip(content(data), content(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_npy_files_are_read_as_they_are_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", noise(10, 4, 4))
    data = datasets.load(tmp_path / "a.npy", 2)
    assert (data.input_shape, data.num_classes) == ((4, 4, 1), None)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(
        np.sort(images.to_uint8(content(data)[0]), axis=None), np.sort(noise(10, 4, 4), axis=None)
    )


def test_class_names_and_labels_that_are_names(tmp_path):
    names = np.array(["cat", "dog", "cat", "ant"])
    alone = datasets.load(stored(tmp_path / "a.npz", images=noise(4, 2, 2, 1), labels=names))
    assert alone.class_names == ("ant", "cat", "dog")
    assert alone.labels.tolist() == [1, 2, 1, 0]
    given = np.array(["dog", "cat", "ant", "cow"])
    path = stored(tmp_path / "b.npz", images=noise(4, 2, 2, 1), labels=names, class_names=given)
    named = datasets.load(path)
    assert named.class_names == tuple(given)
    assert named.labels.tolist() == [1, 0, 1, 2]
    path = stored(tmp_path / "c.npz", images=noise(4, 2, 2), labels=names, class_names=given[:2])
    with pytest.raises(ValueError, match=r"labels must be among class_names\. Received: 'ant'"):
        datasets.load(path)


def test_validation_arrays_of_a_file(tmp_path):
    """The names of MedMNIST, whose test images are left out with a word."""
    parts = {"train": 12, "val": 6, "test": 3}
    arrays = {f"{part}_images": noise(n, 4, 4, seed=n) for part, n in parts.items()}
    arrays |= {f"{part}_labels": np.arange(n)[:, None] % 3 for part, n in parts.items()}
    with pytest.warns(UserWarning, match="left out: test_images, test_labels"):
        data = datasets.load(stored(tmp_path / "a.npz", **arrays))
    assert (len(data.images), len(data.validation.images)) == (12, 6)
    np.testing.assert_array_equal(
        images.to_uint8(np.concatenate([batch[0] for batch in data.validation]))[..., 0],
        noise(6, 4, 4, seed=6),
    )


@pytest.mark.parametrize(
    ("low", "high", "dtype", "found"),
    [
        (0, 255, "uint8", None),
        (-1, 1, "float32", None),
        (0, 1, "float16", "0 to 1"),
        (0, 1, "uint8", "0 to 1"),
        (0, 1, "bool", "0 to 1"),
        (0, 255, "float64", "0 to 255"),
        (3, 200, "int64", "0 to 255"),
        (0, 65535, "uint16", "0 to 65535"),
    ],
)
def test_the_range_of_the_pixels_is_found_and_said(tmp_path, low, high, dtype, found, recwarn):
    pixels = np.linspace(low, high, 4 * 6).round(0 if high > 1 else 3).reshape(6, 2, 2, 1)
    np.save(tmp_path / "a.npy", pixels.astype(dtype))
    data = datasets.load(tmp_path / "a.npy", 6)
    said = [str(warning.message) for warning in recwarn]
    assert [found in words for words in said] == ([True] if found else [])
    bottom, top = (-1, 1) if low < 0 else (0, int(found.split()[-1]) if found else 255)
    expected = (np.load(tmp_path / "a.npy").astype("float64") - bottom) / (top - bottom) * 2 - 1
    np.testing.assert_allclose(np.sort(data[0][0].ravel()), np.sort(expected.ravel()), atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 2))}, r"\(N, H, W, C\) or \(N, H, W\), not empty.*\(2, 2\)"),
        ({"images": np.zeros((0, 2, 2))}, r"not empty.*\(0, 2, 2, 1\)"),
        ({"images": noise(4, 3, 8, 8)}, r"channels-last.*shape=\(4, 3, 8, 8\)"),
        ({"images": np.full((4, 2, 2), np.nan)}, "finite.* float64 from nan to nan"),
        ({"images": np.full((4, 2, 2), -3.0)}, r"from 0 to 255.* from -3\.0 to -3\.0"),
        ({"pixels": noise(4, 2, 2)}, r"by one of the names images, x,.* Received: pixels"),
        ({"images": noise(4, 2, 2), "labels": np.arange(3)}, r"labels must be of shape \(4,\)"),
        ({"images": noise(4, 2, 2), "labels": np.ones(4)}, "labels must be integers"),
    ],
)
def test_files_that_hold_no_images(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(stored(tmp_path / "a.npz", **arrays))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "pickle"])
def test_broken_files_are_named_and_pickles_never_run(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    if damage == "pickle":
        bombs = np.array([Bomb(), Bomb()], dtype=object)
        path.write_bytes(pickle.dumps(Bomb()))
        np.save(path, bombs) if suffix == ".npy" else np.savez(path, images=bombs)
    else:
        save = np.save if suffix == ".npy" else np.savez
        save(path, noise(9, 8, 8))
        path.write_bytes(path.read_bytes()[:90] if damage == "truncated" else b"garbage")
    with pytest.raises(OSError, match=rf"cannot read the arrays .*a\{suffix}"):
        datasets.load(path)


def test_arrays_are_neither_resized_nor_converted(tmp_path):
    np.save(tmp_path / "a.npy", noise(8, 6, 4))
    assert datasets.load(tmp_path / "a.npy", image_size=(6, 4), channels=1).input_shape == (6, 4, 1)
    with pytest.raises(ValueError, match=r"image_size must be None or \(6, 4\)"):
        datasets.load(tmp_path / "a.npy", image_size=4)
    with pytest.raises(ValueError, match=r"channels must be None or 1 .*channels=3"):
        datasets.load(tmp_path / "a.npy", channels=3)
    with pytest.raises(ValueError, match=r"must be one of .*existing folder, \.npz or \.npy file"):
        datasets.load(tmp_path / "a.npx")
    with pytest.raises(FileNotFoundError, match=r"b\.npy"):
        datasets.load(tmp_path / "b.npy")


# Parts


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
def test_a_share_for_validation_is_kept_apart(tmp_path, kind):
    pixels, labels = noise(40, 2, 2, 3), np.repeat([0, 1], [30, 10])
    arrays = {"images": pixels, "labels": labels} if kind == "labelled" else {"images": pixels}
    path = stored(tmp_path / "a.npz", **arrays)
    data = datasets.load(path, 6, validation=0.2, flip=True, seed=4)
    assert (len(data.images), len(data.validation.images)) == (32, 8)
    assert (data.flip, data.validation.flip, data.validation.shuffle) == (True, False, False)
    assert sum(len(batch[0]) for batch in data.validation) == 8  # none is left out
    if kind == "labelled":
        assert np.bincount(data.validation.labels).tolist() == [6, 2]
    both = np.concatenate([data.images, data.validation.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, pixels))
    again = datasets.load(path, 6, validation=0.2, seed=4)
    np.testing.assert_array_equal(again.images, data.images)


def test_a_limit_takes_each_class_by_its_share(tmp_path):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    path = stored(tmp_path / "a.npz", images=noise(100, 2, 2), labels=labels)
    for limit in (10, 20, 50):
        data = datasets.load(path, limit=limit)
        expected = np.array([0.6, 0.3, 0.1]) * limit
        assert np.abs(np.bincount(data.labels) - expected).max() <= 1
        assert len(data.images) == limit
    assert len(datasets.load(path, limit=1000).images) == 100
    one = datasets.load(path, limit=1)
    assert (one.num_classes, len(one), one.batch_size) == (3, 1, 1)  # the classes stay known
    several = [datasets.load(path, limit=10, seed=seed).images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(several[0], several[1])
    assert (several[0] != several[2]).any()
    with pytest.raises(ValueError, match=r"limit must be an integer of at least 1.*limit=0"):
        datasets.load(path, limit=0)


def test_labels_can_be_left_out_of_any_data():
    data = datasets.load("digits", labels=False, validation=0.1)
    assert data.num_classes is data.labels is data.validation.labels is None
    assert len(data[0]) == 1


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 1), (50, 8), (600, 128), (9000, 128)])
def test_the_batch_fits_few_images(tmp_path, count, size):
    np.save(tmp_path / "a.npy", noise(count, 1, 1))
    data = datasets.load(tmp_path / "a.npy")
    assert data.batch_size == size
    assert len(data) >= min(count, 4)


# From a folder of one's own to images of one's own


@pytest.mark.parametrize(
    ("place", "channels", "num_classes"),
    [("{}.png", 1, None), ("cat/{}.png", 3, 1), ("{}/x.png", 3, 8)],
)
def test_a_network_is_trained_on_and_draws_what_the_folder_holds(
    tmp_path, place, channels, num_classes
):
    for i in range(8):
        images.save_png(tmp_path / place.format(i), noise(9, 14, 3, seed=i))
    data = datasets.load(
        tmp_path, image_size=(8, 12), channels=channels, validation=0.25 * (num_classes != 8)
    )
    assert (data.input_shape, data.num_classes) == ((8, 12, channels), num_classes)
    network = keras_dit.DiTModel(
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        **{"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2},
    )
    diffusion = keras_dit.Diffusion(network)
    diffusion.compile("adam")
    history = diffusion.fit(data, validation_data=data.validation, epochs=2, verbose=0).history
    assert np.isfinite([value for values in history.values() for value in values]).all()
    assert ("val_loss" in history) == (data.validation is not None)
    labels = None if num_classes is None else [0, 0]
    assert diffusion.generate(labels, num_images=2, steps=2).shape == (2, 8, 12, channels)
