"""Laws of cached latents: what was written is read, in the orders of ImageBatches, after a kill."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from keras_dit import datasets
from keras_dit.datasets import (
    ImageBatches,
    LatentFacts,
    LatentFiles,
    LatentWriter,
    cached_latents,
)

COUNT, SHAPE = 23, (2, 3, 4)  # two channels, each with its mean and log-variance
NAMES = ("a", "b", "c")
LABELS = np.arange(COUNT) % 3


def posteriors(count=COUNT, forms=2, seed=0):
    drawn = np.random.default_rng(seed).normal(0, 2, (count, forms, *SHAPE))
    return drawn.astype("float16").astype("float32")  # which the files hold exactly


def facts(count=COUNT, **settings):
    given = {"shape": SHAPE, "image_shape": (16, 24, 3), "dtype": "float16", "shard": 5}
    made = {"flips": True, "class_names": NAMES, "autoencoder": {"identity": "one"}}
    return LatentFacts(count, **{**given, **made, **settings})


def write(folder, values=None, labels=LABELS, **settings):
    values = posteriors() if values is None else values
    with LatentWriter(folder, facts(len(values), **settings), labels) as writer:
        for rows in np.array_split(values[writer.done :], 4):
            writer.append(rows)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("latents") / "all")


def test_what_was_written_is_read_in_any_order(folder):
    files = LatentFiles(folder)
    assert files.shape == (COUNT, *SHAPE)
    assert files.image_shape == (16, 24, 3)
    chosen, mirrored = np.array([22, 0, 5, 5, 4]), np.array([True, False, True, False, False])
    expected = posteriors()[chosen, mirrored.astype(int)]
    np.testing.assert_array_equal(files.read(chosen, mirrored), expected)
    np.testing.assert_array_equal(files[7], posteriors()[7, 0])
    some = files.subset([20, 3, 9]).subset([2, 0])
    np.testing.assert_array_equal(some.read(np.array([0, 1])), posteriors()[[9, 20], 0])


def test_numpy_alone_reads_the_files(folder):
    parts = [np.load(folder / f"{i:05d}.npy") for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(parts), posteriors())
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), LABELS)


def test_batches_have_the_orders_and_flips_of_image_batches(folder):
    batches = cached_latents(folder, 4, seed=3)
    assert (batches.input_shape, batches.num_classes, batches.class_names) == (SHAPE, 3, NAMES)
    assert batches.flip
    numbers = np.arange(2 * COUNT, dtype="uint8").reshape(COUNT, 1, 2, 1)  # mirrored: odd first
    alike = ImageBatches(numbers, LABELS, 4, flip=True, seed=3)
    for epoch, index in [(0, 0), (0, 4), (7, 2)]:
        (found, labels), (images, expected) = (b.batch(epoch, index) for b in (batches, alike))
        assert found.dtype == np.float32
        first = np.round((images[:, 0, 0, 0] + 1) * 127.5).astype(int)
        np.testing.assert_array_equal(found, posteriors()[first // 2, first % 2])
        np.testing.assert_array_equal(labels, expected)


def test_load_takes_a_folder_of_latents(folder):
    one, two = cached_latents(folder, 4, seed=2), datasets.load(folder, 4, seed=2)
    for a, b in zip(one.batch(1, 1), two.batch(1, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not datasets.load(folder, 4, flip=False).flip
    assert datasets.load(folder, 4, image_size=(16, 24)).input_shape == SHAPE
    with pytest.raises(ValueError, match=r"image_size must be None or \(16, 24\)"):
        datasets.load(folder, 4, image_size=16)


def test_parts_of_it_are_taken_like_parts_of_images(folder):
    batches = cached_latents(folder, 2, limit=12, validation=0.25, labels=True, flip=False)
    images = (
        np.zeros((COUNT, 1, 1, 1), "uint8") + np.arange(COUNT, dtype="uint8")[:, None, None, None]
    )
    contents = datasets.sources.Contents(images, LABELS)
    alike = datasets.sources.divide(datasets.sources.limited(contents, 12, 0), 0.25, 0)
    for part, images in ((batches, alike.images), (batches.validation, alike.validation.images)):
        read = part.images.read(np.arange(len(part.images)))
        np.testing.assert_array_equal(read, posteriors()[images[:, 0, 0, 0], 0])
        assert not part.flip
    assert cached_latents(folder, 2, labels=False).num_classes is None


def test_images_kept_apart_stay_apart(tmp_path):
    values = posteriors(31)
    write(tmp_path / "all", values[:23])
    write(tmp_path / "all" / "validation", values[23:], LABELS[:8])
    batches = cached_latents(tmp_path / "all", 4)
    assert len(batches.validation.images) == 8


@pytest.mark.parametrize("stop", [1, 5, 13, 22])
def test_a_writer_that_was_stopped_goes_on_and_ends_with_the_same_bytes(folder, tmp_path, stop):
    values = posteriors()
    with pytest.raises(KeyboardInterrupt), LatentWriter(tmp_path, facts(), LABELS) as writer:
        writer.append(values[:stop])
        raise KeyboardInterrupt
    assert LatentFacts.read(tmp_path).done == stop
    with pytest.raises(ValueError, match=f"holds {stop} of 23 images.*goes on where it was"):
        LatentFiles(tmp_path)
    write(tmp_path)
    assert contents(tmp_path) == contents(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


KILLED = """
import sys, time
import numpy as np
from keras_dit.datasets import writing
sys.path.insert(0, sys.argv[1])
import test_latents_files as law
writing.SECONDS = 0.0
with writing.LatentWriter(sys.argv[2], law.facts(), law.LABELS) as writer:
    for row in law.posteriors()[writer.done:]:
        writer.append(row[None])
        if writer.done == 13:
            print("there", flush=True)
            time.sleep(60)
"""


def test_kill_9_loses_nothing_that_was_written(folder, tmp_path):
    here = pathlib.Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(here), str(tmp_path / "out")]
    paths = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    ) as writer:
        assert writer.stdout.readline() == b"there\n"
        writer.send_signal(signal.SIGKILL)
    assert LatentFacts.read(tmp_path / "out").done == 13
    # What the kill tore, and a file that it left beside.
    with (tmp_path / "out" / "00002.npy").open("ab") as file:
        file.write(b"torn")
    (tmp_path / "out" / ".latents.12345678.new.json").write_text("{")
    write(tmp_path / "out")
    (tmp_path / "out" / ".latents.12345678.new.json").unlink()
    assert contents(tmp_path / "out") == contents(folder)


def test_the_statistics_are_those_of_the_latents_that_are_drawn(tmp_path):
    values = posteriors(200, forms=1)
    write(tmp_path, values, None, flips=False, class_names=None, shard=64)
    mean, log_variance = np.split(values[:, 0].astype("float64"), 2, -1)
    found = LatentFiles(tmp_path).facts
    np.testing.assert_allclose(found.mean, mean.mean((0, 1, 2)), rtol=1e-10)
    variance = mean.var((0, 1, 2)) + np.exp(log_variance).mean((0, 1, 2))  # of a mixture
    np.testing.assert_allclose(found.deviation, np.sqrt(variance), rtol=1e-10)


def test_what_does_not_go_on_as_it_began_is_refused(folder, tmp_path):
    moved = dataclasses.replace(facts(), autoencoder={"identity": "one", "path": "elsewhere"})
    LatentWriter(write(tmp_path / "moved"), moved, LABELS)
    for settings, message in [
        ({"autoencoder": {"identity": "two"}}, "autoencoder identity one, not two"),
        ({"flips": False}, "flips True, not False"),
        ({"image_shape": (8, 8, 3)}, r"image_shape \[16, 24, 3\], not \[8, 8, 3\]"),
    ]:
        with pytest.raises(ValueError, match=f"was begun with {message}"):
            LatentWriter(folder, facts(**settings), LABELS)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        LatentWriter(tmp_path, facts())
    with pytest.raises(FileExistsError, match="is a file"):
        LatentWriter(tmp_path / "note.txt", facts())


def test_what_the_files_cannot_hold_is_refused_by_the_number_of_its_image(tmp_path):
    values = posteriors()
    values[9, 1, 0, 0, 0] = 1e5
    with (
        pytest.raises(ValueError, match="posterior of image 9 is not finite in float16"),
        LatentWriter(tmp_path, facts(), LABELS) as writer,
    ):
        writer.append(values[:8])
        writer.append(values[8:])
    assert LatentFacts.read(tmp_path).done == 8


def cut(folder):
    (folder / "00001.npy").write_bytes((folder / "00001.npy").read_bytes()[:-7])


def other(folder):
    np.save(folder / "00004.npy", np.zeros((3, 2, 2, 2, 4), "float16"))


def say(folder, **facts):
    found = json.loads((folder / "latents.json").read_text())
    (folder / "latents.json").write_text(json.dumps({**found, **facts}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (cut, ValueError, r"00001.npy is corrupt"),
        (other, ValueError, r"00004.npy must be float16 of shape \(3, 2, 2, 3, 4\)"),
        (lambda f: (f / "00003.npy").unlink(), FileNotFoundError, "lacks 00003.npy"),
        (lambda f: (f / "labels.npy").unlink(), FileNotFoundError, "lacks labels.npy"),
        (lambda f: (f / "latents.json").write_text("{"), ValueError, "latents.json is corrupt"),
        (lambda f: say(f, shape=[2, 3]), ValueError, "latents.json is corrupt"),
        (lambda f: say(f, count=-1), ValueError, "latents.json is corrupt"),
        (lambda f: say(f, dtype="int8"), ValueError, "latents.json is corrupt"),
        (lambda f: say(f, more=1), ValueError, "latents.json is corrupt"),
        (lambda f: say(f, format=2), ValueError, "is of format 2"),
    ],
)
def test_damage_is_named(tmp_path, damage, error, message):
    damage(write(tmp_path))
    with pytest.raises(error, match=message):
        cached_latents(tmp_path, 4)


def test_mirrored_images_that_are_not_there_cannot_be_asked_for(tmp_path):
    write(tmp_path, posteriors(forms=1), flips=False)
    assert not cached_latents(tmp_path, 4).flip
    with pytest.raises(ValueError, match="holds no mirrored images"):
        cached_latents(tmp_path, 4, flip=True)
    with pytest.raises(FileNotFoundError, match="is no folder of latents"):
        cached_latents(tmp_path / "nowhere", 4)
