"""Laws of a checkpoint's file and folder: whole or recognised, the old one or the new one."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dit
from keras_dit.checkpoints import CorruptCheckpointError
from keras_dit.training.checkpoints import files, folder, state
from keras_dit.training.checkpoints.writer import Writer

ARRAYS = {
    "scalar": np.array(7, "int32"),
    "empty": np.zeros((0, 3), "float32"),
    "half": np.arange(5).astype("float16"),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "matrix": np.arange(6, dtype="float64").reshape(2, 3).T,  # not contiguous
    "seed": np.array([2**32 - 1, 0], "uint32"),
}
FACTS = {"epoch": 3, "history": [{"epoch": 0, "loss": 0.1}], "data": {}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a good file."""
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    files.write(path, ARRAYS, FACTS)
    return path.read_bytes()


def same(arrays):
    return arrays.keys() == ARRAYS.keys() and all(
        arrays[name].dtype == ARRAYS[name].dtype
        and arrays[name].shape == ARRAYS[name].shape
        and arrays[name].tobytes() == ARRAYS[name].tobytes()
        for name in ARRAYS
    )


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    for _ in range(2):  # over itself too
        files.write(path, ARRAYS, FACTS)
        arrays, facts = files.read(path)
        assert same(arrays)
        assert facts == FACTS
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_it_is_a_safetensors_file(whole):
    """By the format's own text: lengths, offsets without gaps, nothing after the last."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    assert all(isinstance(text, str) for text in header.pop("__metadata__").values())
    end = 0
    for entry in header.values():
        assert entry["data_offsets"][0] == end
        end = entry["data_offsets"][1]
    assert 8 + length + end == len(whole)


def test_the_library_of_that_format_reads_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    readable = {name: array for name, array in ARRAYS.items() if name != "brain"}
    files.write(tmp_path / "a.safetensors", readable, FACTS)
    found = safetensors.load_file(tmp_path / "a.safetensors")
    for name, array in readable.items():
        np.testing.assert_array_equal(found[name], array)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_recognised(whole, tmp_path_factory, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(CorruptCheckpointError, match=f"corrupt checkpoint: {path}"):
        files.read(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_cut_or_longer_file_is_recognised(whole, tmp_path_factory, data):
    size = data.draw(st.integers(0, len(whole) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=64))
    for damaged in (whole[:size], whole + tail, whole[:size] + tail, tail):
        path = tmp_path_factory.getbasetemp() / "cut.safetensors"
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(CorruptCheckpointError):
                files.read(path)


def written(place, *steps):
    for step in steps:
        files.write(folder.path_of(place, step), ARRAYS, {"steps": step})


def test_the_newest_is_found_and_the_newest_few_are_kept(tmp_path):
    assert folder.newest(tmp_path) is None
    written(tmp_path, 1, 2, 99_999_999, 100_000_000)
    assert folder.newest(tmp_path)[2]["steps"] == 100_000_000
    (tmp_path / ".step_00000011.safetensors.new").touch()  # of a killed write
    folder.prune(tmp_path, 2)
    left = {"step_99999999.safetensors", "step_100000000.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_damaged_one_is_put_aside_and_the_one_before_it_used(tmp_path):
    written(tmp_path, 1, 2, 3)
    for step in (2, 3):
        os.truncate(folder.path_of(tmp_path, step), 100)
    with pytest.warns(UserWarning, match=r"corrupt checkpoint: .*step_00000003.*before it is used"):
        path, arrays, facts = folder.newest(tmp_path)
    assert same(arrays)
    assert (path, facts["steps"]) == (folder.path_of(tmp_path, 1), 1)
    written(tmp_path, 2)
    folder.prune(tmp_path, 1)  # damaged ones do not count
    assert folder.newest(tmp_path)[2]["steps"] == 2


def test_only_damaged_ones_are_an_error_and_stay(tmp_path):
    written(tmp_path, 1)
    os.truncate(folder.path_of(tmp_path, 1), 100)
    with pytest.raises(CorruptCheckpointError, match="step_00000001"):
        folder.newest(tmp_path)
    assert folder.path_of(tmp_path, 1).exists()


def test_the_best_outlives_its_file(tmp_path):
    written(tmp_path, 1, 2)
    for step in (1, 2):
        folder.mark_best(folder.path_of(tmp_path, step))
    folder.path_of(tmp_path, 2).unlink()
    assert files.read(tmp_path / folder.BEST)[1]["steps"] == 2


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The limit on a file's size stands for the disk: it ends a write in its middle, root's too."""
    written(tmp_path, 1)
    path = folder.path_of(tmp_path, 1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write the checkpoint {path}: .*intact"):
            files.write(path, ARRAYS, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys, numpy as np
from keras_dit.training.checkpoints import files, folder
print("ready", flush=True)
for step in range(1, 100_000):
    files.write(folder.path_of(sys.argv[1], step), {"a": np.full(50_000, step)}, {"steps": step})
    folder.prune(sys.argv[1], 2)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    """Three random kill -9; `benchmarks/soak.py` does a hundred."""
    for wait in np.random.default_rng().uniform(0, 0.3, 3):
        before = folder.newest(tmp_path)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=pathlib.Path(__file__).parent.parent,
        )
        writer.stdout.readline()
        try:
            writer.wait(0.05 + wait)
        except subprocess.TimeoutExpired:
            writer.kill()
        writer.wait()
        writer.stdout.close()
        _, arrays, facts = folder.newest(tmp_path)
        assert (arrays["a"] == facts["steps"]).all()
        assert before is None or facts["steps"] >= 1


# Writing beside the training


def test_what_is_begun_is_done_while_others_go_on():
    writer, free, done = Writer(), threading.Event(), []
    writer.begin(lambda: done.append(free.wait(60)))
    writer.look()  # which does not wait: else this would never end
    assert not done
    threading.Timer(0.1, free.set).start()
    writer.begin(lambda: done.append("second"))  # waits for the first
    assert done[0] is True
    writer.wait()
    assert done == [True, "second"]


def test_what_goes_wrong_is_raised_by_the_next_call_and_once():
    def fail():
        raise OSError("no space")

    writer = Writer()
    writer.begin(fail)
    with pytest.raises(OSError, match="no space"):
        writer.begin(lambda: None)
    writer.begin(fail)
    with pytest.raises(OSError, match="no space"):
        for _ in range(1000):
            writer.look()
            time.sleep(0.01)
    writer.wait()


def test_a_state_that_was_taken_does_not_move_with_the_training(tmp_path):
    network = keras_dit.DiTModel((4, 4, 1), patch_size=2, hidden_size=8, depth=1, num_heads=1)
    model = keras_dit.Diffusion(network, ema=0.5)
    model.compile(keras.optimizers.AdamW(0.1))
    images = np.zeros((4, 4, 4, 1), "float32")
    model.train_on_batch(images)
    arrays, facts = state.taken(model, {"epoch": 0})
    before = {name: array.copy() for name, array in arrays.items()}
    model.train_on_batch(images)
    later, _ = state.taken(model, {"epoch": 0})
    moved = [name for name in arrays if (arrays[name] != later[name]).any()]
    assert any(n.startswith("average/") for n in moved)
    assert any(n.startswith("optimizer/") for n in moved)
    for name, array in before.items():
        np.testing.assert_array_equal(arrays[name], array)
    json.dumps(facts)
