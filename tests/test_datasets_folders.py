"""Laws of the folders of images: what is listed, what is skipped, what is refused."""

import shutil

import numpy as np
import pytest
from PIL import Image

from keras_dit import datasets, images
from keras_dit.datasets import ImageBatches, ImageFiles, image_folder
from keras_dit.evaluation import Pixels
from keras_dit.evaluation.references import summed


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
    return root


def add_what_is_left_out(root):
    """Hidden and system files, other files, and folders of them."""
    (root / "cat" / ".hidden.png").write_bytes(b"never looked at")
    for name in ("cat/notes.txt", "dog/Thumbs.db", "dog/deep/photo.heic", "cat/readme"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    for name in (".git/x.png", "cat/.thumbnails/x.png", "__MACOSX/dog/x.png"):
        images.save_png(root / name, noise(6, 5, 3))


def test_image_files_are_read_when_asked_for(tmp_path):
    for i in range(3):
        images.save_png(tmp_path / f"{i}.png", noise(9, 8, 3, seed=i))
    files = ImageFiles([tmp_path / f"{i}.png" for i in range(3)], (9, 8))
    assert (len(files), files.shape) == (3, (3, 9, 8, 3))
    np.testing.assert_array_equal(files[1], noise(9, 8, 3, seed=1))
    np.testing.assert_array_equal(files.subset([2, 0])[0], noise(9, 8, 3, seed=2))
    assert ImageFiles(files.paths, 4, channels=1)[0].shape == (4, 4, 1)


def test_drafts_are_for_batches_and_not_for_what_is_compared(tmp_path):
    for i in range(4):
        Image.fromarray(noise(64, 64, 3, seed=i)).save(tmp_path / f"{i}.jpg")
    whole = datasets.load(tmp_path, 2, image_size=8, validation=0.25)
    draft = datasets.load(tmp_path, 2, image_size=8, validation=0.25, draft=True)
    assert draft.images.paths == whole.images.paths
    for one, other in ((draft, whole), (draft.validation, whole.validation)):
        difference = np.abs(contents(one, 3) - contents(other, 3)).mean() * 127.5
        assert 0.1 < difference < 2.0
    np.testing.assert_array_equal(contents(draft, 3), contents(draft, 3))
    moments = [summed(data, Pixels(), 0).arrays() for data in (draft, whole)]
    for name, values in moments[0].items():
        np.testing.assert_array_equal(values, moments[1][name])


def test_a_folder_is_listed_by_class_and_name(folder):
    batches = image_folder(folder, (6, 5), batch_size=5)
    assert batches.class_names == ("cat", "dog")
    assert (batches.input_shape, batches.num_classes) == ((6, 5, 3), 2)
    assert places(batches, folder) == [
        "cat/10.png",
        "cat/2.png",
        "cat/deep/er/1.png",
        "dog/a.png",
        "dog/b.PNG",
    ]
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
    with pytest.warns(UserWarning, match=r"skipped 2 of 7 images .* the first: .*cat/3\.png"):
        skipped = image_folder(folder, 4, batch_size=4, on_error="skip")
    np.testing.assert_array_equal(contents(skipped, 3), contents(good, 3))
    np.testing.assert_array_equal(skipped.batch(3, 0)[1], good.batch(3, 0)[1])


def test_a_class_without_a_readable_picture(folder):
    for name in ("a.png", "b.PNG"):
        (folder / "dog" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of the class dog can be read.*dog/a\.png"):
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


def places(batches, folder):
    return [path[len(str(folder)) + 1 :] for path in batches.images.paths]


def test_what_is_left_out_is_counted_and_named_once(folder):
    before = image_folder(folder, 4, batch_size=5)
    add_what_is_left_out(folder)
    images.save_png(folder / "loose.png", noise(6, 5, 3))
    with pytest.warns(UserWarning) as warned:
        after = image_folder(folder, 4, batch_size=5)
    assert places(after, folder) == places(before, folder)
    assert [str(warning.message) for warning in warned] == [
        f"{folder}: left out: 1 .db file (dog/Thumbs.db); 1 .heic file (dog/deep/photo.heic); "
        "1 .txt file (cat/notes.txt); 1 file without a suffix (cat/readme); "
        "1 hidden file (cat/.hidden.png); 3 hidden folders (.git, ...); "
        "1 image in no class (loose.png)"
    ]


def test_every_suffix_that_pillow_writes_is_read(tmp_path):
    suffixes = [".tif", ".TIFF", ".jfif", ".jpe", ".jp2", ".webp", ".ppm", ".tga", ".ico"]
    suffixes = [suffix for suffix in suffixes if suffix.lower() in images.suffixes()]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for suffix in suffixes:
            Image.fromarray(noise(16, 16, 3)).save(tmp_path / name / f"x{suffix}")
    batches = image_folder(tmp_path, 16, batch_size=2 * len(suffixes))
    assert len(suffixes) >= 8
    assert batches[0][0].shape == (2 * len(suffixes), 16, 16, 3)


@pytest.fixture
def linked(folder, tmp_path):
    """The folder with links: to files, to folders, in a circle, upwards, and to nothing."""
    outside = tmp_path / "outside"
    for name in ("1.png", "2.png"):
        images.save_png(outside / "bird" / name, noise(6, 5, 3, seed=9))
    (folder / "bird").symlink_to(outside / "bird")
    (folder / "cat" / "more").symlink_to(outside)
    (folder / "cat" / "link.png").symlink_to(outside / "bird" / "1.png")
    (folder / "cat" / "circle").symlink_to(folder / "cat")
    (folder / "dog" / "up").symlink_to(folder)
    (folder / "dog" / "gone.png").symlink_to(folder / "nothing.png")
    return folder


def test_links_are_followed_and_broken_ones_do_not_break_fit(linked):
    with pytest.warns(UserWarning) as warned:
        batches = image_folder(linked, 4, batch_size=3)
    assert places(batches, linked) == [
        *("bird/1.png", "bird/2.png"),
        *("cat/10.png", "cat/2.png", "cat/deep/er/1.png", "cat/link.png"),
        *("cat/more/bird/1.png", "cat/more/bird/2.png"),
        *("dog/a.png", "dog/b.PNG"),
    ]
    assert [str(warning.message) for warning in warned] == [
        f"{linked}: left out: 1 broken link (dog/gone.png); "
        "2 folders read already (cat/circle, ...)"
    ]
    assert [len(batch[0]) for batch in batches] == [3, 3, 3]


def folder_of(root, *names):
    for seed, name in enumerate(names):
        images.save_png(root / name, noise(6, 5, 3, seed=seed))
    return root


@pytest.mark.parametrize(
    ("names", "class_names", "labels"),
    [
        (["b.png", "a.png"], None, None),
        (["one/b.png", "one/deep/a.png"], ("one",), [0, 0]),
        (["b/x.png", "a/y.png"], ("a", "b"), [0, 1]),
    ],
)
def test_a_folder_has_the_classes_that_it_has(tmp_path, names, class_names, labels):
    batches = image_folder(folder_of(tmp_path, *names), 4, batch_size=2)
    assert places(batches, tmp_path) == sorted(names)
    assert batches.class_names == class_names
    assert batches.num_classes == (class_names and len(class_names))
    assert len(batches[0]) == (1 if labels is None else 2)
    if labels is not None:
        assert batches.labels.tolist() == labels


def test_classes_may_be_left_out(folder):
    images.save_png(folder / "loose.png", noise(6, 5, 3))
    batches = datasets.load(folder, image_size=4, labels=False)
    assert len(batches.images) == 6
    assert batches.num_classes is batches.class_names is batches.labels is None


SPLITS = ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "test/a/3.png"]


def test_splits_are_not_taken_as_classes(tmp_path):
    folder_of(tmp_path, *SPLITS, "loose.png")
    with pytest.warns(UserWarning) as warned:
        data = datasets.load(tmp_path, image_size=4)
    assert [str(warning.message) for warning in warned] == [
        f"{tmp_path} is taken as splits, not as classes: test/ (not used), train/ (for training), "
        "val/ (for validation)",
        f"{tmp_path}: left out: 1 image in no split (loose.png)",
    ]
    assert places(data, tmp_path) == SPLITS[:2]
    assert places(data.validation, tmp_path) == SPLITS[2:4]
    assert data.class_names == data.validation.class_names == ("a", "b")
    assert (data.shuffle, data.validation.shuffle) == (True, False)
    with pytest.raises(ValueError, match=r"validation images of its own.*validation=0\.5"):
        datasets.load(tmp_path, image_size=4, validation=0.5)


def test_splits_without_classes(tmp_path):
    folder_of(tmp_path, "training/1.png", "Valid/2.png", "Valid/3.png")
    with pytest.warns(UserWarning, match="taken as splits"):
        data = datasets.load(tmp_path, image_size=4)
    assert (len(data.images), len(data.validation.images), data.num_classes) == (1, 2, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "val/b/1.png"], "same folders of classes, but only one .* has a, b"),
        (["train/a/1.png", "val/1.png"], "same folders of classes, but only one .* has a"),
        (["val/1.png", "test/1.png"], "names of splits, without one train/: .* such as .*test"),
        (["train/1.png", "val/1.png", "valid/1.png"], "names of splits"),
    ],
)
def test_splits_that_do_not_belong_together(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(folder_of(tmp_path, *names), image_size=4)


def test_folders_that_hold_no_data_set(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/none"):
        image_folder(tmp_path / "none", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is empty; expected FOLDER/CLASS/IMAGE\.png"):
        image_folder(tmp_path / "empty", 4)
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no image in .*empty; left out: 1 \.txt file \(notes"):
        image_folder(tmp_path / "empty", 4)
    with pytest.raises(ValueError, match=r"2 images beside one folder of images, deep/: it is unc"):
        image_folder(folder / "cat", 4)
    (folder / "bird").mkdir()
    (folder / "bird" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no image in .*bird; left out: 1 \.txt file \(bird/no"):
        image_folder(folder, 4)
    shutil.rmtree(folder / "bird")
    with pytest.raises(ValueError, match=r"fewer images than one batch: .* at most 5, such as 1"):
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


# Captions


def captioned(folder, names=("1.png", "deep/2.png", "deep/3.jpg")):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


METADATA = {
    "metadata.jsonl": '{"file_name": "deep/2.png", "text": "two, née 2"}\n\n'
    '{"file_name": "1.png", "text": "one"}\n',
    "metadata.csv": 'file_name,caption\n1.png,one\n./deep/2.png,"two, née 2"\n',
}


@pytest.mark.parametrize("name", METADATA)
def test_captions_stand_in_a_file_of_metadata(name, tmp_path):
    """As imagefolder has it; then folders are no classes."""
    folder = captioned(tmp_path / "images")
    (folder / name).write_text(METADATA[name], encoding="utf-8")
    with pytest.warns(UserWarning, match="1 images have no caption") as warned:
        data = datasets.load(folder, 2, image_size=8)
    assert "left out" not in str(warned[0].message)
    assert data.num_classes is None
    assert data.conditions == {"text": ["one", "two, née 2", ""]}
    _, told = data.batch(0, 0)
    assert set(told["text"]) < {"one", "two, née 2", ""}


def test_a_text_beside_each_image_is_its_caption(tmp_path):
    folder = captioned(tmp_path / "images", ("1.png", "2.png"))
    for name in ("1", "2"):
        (folder / f"{name}.txt").write_text(f"a {name}\n")
    assert datasets.load(folder, 2, image_size=8).conditions["text"] == ["a 1", "a 2"]


def test_texts_beside_images_of_classes_are_no_captions(tmp_path):
    """Files of bounding boxes are often kept so."""
    folder = captioned(tmp_path / "images", ("a/1.png", "b/2.png"))
    (folder / "a" / "1.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.warns(UserWarning, match=r"left out: 1 \.txt file"):
        data = datasets.load(folder, 2, image_size=8)
    assert list(data.conditions) == ["label"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "1.png", "text": "one"}\n{"file', "metadata.jsonl, line 2 is no JSON"),
        ('{"text": "one"}', r"must have a column file_name.* Received: text"),
        ('{"file_name": "1.png", "text": 7}', "line 1: file_name and text must be strings"),
        ("", "Received: no columns"),
    ],
)
def test_metadata_that_cannot_be_understood_is_named(text, message, tmp_path):
    folder = captioned(tmp_path / "images")
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        datasets.load(folder, 2, image_size=8)
