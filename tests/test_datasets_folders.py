"""Laws of the folders of pictures: what is listed, what is skipped, what is refused."""

import shutil

import numpy as np
import pytest

from keras_dit import datasets, images
from keras_dit.datasets import ImageBatches, ImageFiles, image_folder


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def contents(batches, epoch):
    return np.concatenate([batches.batch(epoch, i)[0] for i in range(len(batches))])


@pytest.fixture
def folder(tmp_path):
    """Two classes of grey PNG files of 6 x 5 pixels; the third of the cats lies deeper."""
    root = tmp_path / "pictures"
    names = ["dog/a.png", "dog/b.PNG", "cat/2.png", "cat/10.png", "cat/deep/er/1.png"]
    for seed, name in enumerate(names):
        images.save_png(root / name, noise(6, 5, 3, seed=seed))
    (root / "cat" / ".hidden.png").write_bytes(b"never looked at")
    (root / "cat" / "notes.txt").write_text("no picture")
    for name in (".git/x.png", "cat/.thumbnails/x.png"):
        images.save_png(root / name, noise(6, 5, 3))
    return root


def test_image_files_are_read_when_asked_for(tmp_path):
    for i in range(3):
        images.save_png(tmp_path / f"{i}.png", noise(9, 8, 3, seed=i))
    files = ImageFiles([tmp_path / f"{i}.png" for i in range(3)], (9, 8))
    assert (len(files), files.shape) == (3, (3, 9, 8, 3))
    np.testing.assert_array_equal(files[1], noise(9, 8, 3, seed=1))
    np.testing.assert_array_equal(files.subset([2, 0])[0], noise(9, 8, 3, seed=2))
    assert ImageFiles(files.paths, 4, channels=1)[0].shape == (4, 4, 1)


def test_a_folder_is_listed_by_class_and_name(folder):
    batches = image_folder(folder, (6, 5), batch_size=5)
    assert batches.class_names == ("cat", "dog")
    assert (batches.input_shape, batches.num_classes) == ((6, 5, 3), 2)
    places = [path[len(str(folder)) + 1 :] for path in batches.images.paths]
    assert places == ["cat/10.png", "cat/2.png", "cat/deep/er/1.png", "dog/a.png", "dog/b.PNG"]
    assert batches.labels.tolist() == [0, 0, 0, 1, 1]
    pictures, labels = batches[0]
    files = np.stack([batches.images[i] for i in range(5)])
    arrays = ImageBatches(files, batches.labels, 5)[0]
    np.testing.assert_array_equal(pictures, arrays[0])
    np.testing.assert_array_equal(labels, arrays[1])


def test_listing_opens_no_file_and_a_broken_one_is_named_when_read(folder):
    (folder / "dog" / "a.png").write_bytes(b"")
    batches = image_folder(folder, 4, batch_size=5)
    with pytest.raises(OSError, match=r"cannot read the image .*dog/a\.png"):
        batches[0]


def test_broken_files_are_skipped_with_a_count(folder):
    good = image_folder(folder, 4, batch_size=4)
    (folder / "dog" / "0.png").write_bytes(b"no picture")
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "2.png").read_bytes()[:90])
    with pytest.warns(UserWarning, match=r"skipped 2 of 7 pictures .* the first: .*cat/3\.png"):
        skipped = image_folder(folder, 4, batch_size=4, on_error="skip")
    np.testing.assert_array_equal(contents(skipped, 3), contents(good, 3))
    np.testing.assert_array_equal(skipped.batch(3, 0)[1], good.batch(3, 0)[1])


def test_a_class_without_a_readable_picture(folder):
    for name in ("a.png", "b.PNG"):
        (folder / "dog" / name).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="skipped 2 of 5"),
        pytest.raises(ValueError, match="no picture of the class dog can be read"),
    ):
        image_folder(folder, 4, batch_size=2, on_error="skip")


def test_validation_is_kept_apart(folder):
    train, validation = image_folder(
        folder, 4, batch_size=2, validation_fraction=0.4, flip=True, seed=1
    )
    paths = train.images.paths, validation.images.paths
    assert sorted(paths[0] + paths[1]) == sorted(image_folder(folder, 4, batch_size=1).images.paths)
    assert set(train.labels) == set(validation.labels) == {0, 1}
    for batches in (train, validation):
        for path, label in zip(batches.images.paths, batches.labels, strict=True):
            assert f"/{batches.class_names[label]}/" in path
    read = [validation.images[i] for i in range(len(validation.images))]
    np.testing.assert_array_equal(images.to_uint8(contents(validation, 9)), read)
    again = image_folder(folder, 4, batch_size=2, validation_fraction=0.4, seed=1)[0]
    assert again.images.paths == train.images.paths


def test_pictures_outside_the_classes_are_counted(folder):
    images.save_png(folder / "loose.png", noise(6, 5, 3))
    with pytest.warns(UserWarning, match=r"1 pictures in .* are in no class: ignored"):
        batches = image_folder(folder, 4, batch_size=5)
    assert len(batches.images) == 5


def test_folders_that_hold_no_data_set(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/none"):
        image_folder(tmp_path / "none", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is empty; expected .*empty/CLASS/PICTURE\.png"):
        image_folder(tmp_path / "empty", 4)
    with pytest.raises(ValueError, match=r"at least two folders .* Found: 0 folders, 2 pictures"):
        image_folder(folder / "dog", 4)
    with pytest.raises(ValueError, match=r"at least two folders .* Found: 1 folders, 2 pictures"):
        image_folder(folder / "cat", 4)
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match=r"no picture in the class folder .*bird"):
        image_folder(folder, 4)
    shutil.rmtree(folder / "bird")
    with pytest.raises(ValueError, match="fewer images than one batch"):
        image_folder(folder, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, r"image_size must be \(H, W\), or one integer.*Received: image_size=0"),
        ({"image_size": (4, 4, 3)}, r"Received: image_size=\(4, 4, 3\)"),
        ({"image_size": 4, "channels": 4}, "channels must be 1 or 3. Received: channels=4"),
        ({"image_size": 4, "on_error": "ignore"}, "on_error must be 'raise' or 'skip'"),
        ({"image_size": 4, "validation_fraction": 1.0}, "validation_fraction must be at least 0"),
    ],
)
def test_a_folder_refuses_bad_arguments(folder, options, message):
    with pytest.raises(ValueError, match=message):
        image_folder(folder, batch_size=1, **options)


def test_load_takes_a_folder_of_pictures(folder):
    pictures = datasets.load(str(folder), 2, image_size=4, channels=1, flip=True, seed=9)
    assert (pictures.input_shape, pictures.class_names) == ((4, 4, 1), ("cat", "dog"))
    assert (pictures.flip, pictures.seed) == (True, 9)
    with pytest.raises(ValueError, match=r"image_size is needed .*10\.png, is 6 x 5"):
        datasets.load(folder)
