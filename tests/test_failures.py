"""What goes wrong for users and what they get: rows of docs/failures.md."""

import os
import pathlib
import re
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_dit
from keras_dit import checkpoints, datasets, guidance, schedules
from keras_dit.backend import BACKEND
from keras_dit.cli import main
from keras_dit.training.checkpoints.state import variables
from keras_dit.training.skips import MOST_IN_A_ROW

SIZES = {
    "input_shape": (4, 4, 1),
    "patch_size": 2,
    "hidden_size": 8,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 3,
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 1)).astype("float32")
LABELS = np.arange(8) % 3
TINY = ("--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4)


class Batches(keras.utils.PyDataset):
    """The same good batch again and again, but for those that are given by their index."""

    def __init__(self, count, others):
        super().__init__()
        self.count, self.others = count, others

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.others.get(index, (IMAGES, LABELS))


def make(**changes):
    return keras_dit.Diffusion(keras_dit.DiTModel(**{**SIZES, **changes}), ema=0.9)


@pytest.fixture(scope="module")
def model():
    """One for all tests that train, since each of its own would have to be compiled."""
    keras.utils.set_random_seed(0)
    model = make()
    model.compile(keras.optimizers.AdamW(1e-2), jit_compile=BACKEND == "jax")
    return model


def numbers(model):
    named = variables(model)
    return {n: np.array(ops.convert_to_numpy(v)) for n, v in named.items()}


def test_every_row_of_the_table_names_a_test():
    tests = pathlib.Path(__file__).parent
    rows = [
        line
        for line in (tests.parent / "docs" / "failures.md").read_text().splitlines()
        if line.startswith("|") and not line.startswith(("| case", "|---"))
    ]
    assert len(rows) > 20
    for row in rows:
        links = re.findall(r"\[(test_[a-z0-9_, ]+)\]\(\.\./tests/(\w+\.py)\)", row)
        assert links, row
        for names, file in links:
            text = (tests / file).read_text()
            assert all(f"def {name}(" in text for name in names.split(", ")), row


# Training


NAN = (np.full_like(IMAGES, np.nan), LABELS)
INFINITE = (np.full_like(IMAGES, np.inf), LABELS)
# Several: one that is dropped, as a tenth are, is like any other sample without a class.
WRONG_LABEL = (IMAGES, np.array([3, 1, 3, 3, 3, 1, 3, 0]))
NULL_LABEL = (IMAGES, np.full(8, -1))


@pytest.mark.parametrize("bad", [NAN, INFINITE, WRONG_LABEL, NULL_LABEL])
def test_a_step_that_is_not_finite_is_not_applied(model, bad):
    model.train_on_batch(IMAGES, LABELS)
    before = numbers(model)
    logs = model.train_on_batch(*bad, return_dict=True)
    after = numbers(model)
    assert logs["skipped"] == before["skipped"] + 1
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    seeds = {name for name in moved if name.startswith("state/")}  # which move on
    assert len(seeds) == 2  # of times and noise, and of label dropout
    assert {name for name in moved - seeds if not name.startswith("metrics/")} == {"skipped"}
    loss = model.train_on_batch(IMAGES, LABELS, return_dict=True)["loss"]
    assert np.isfinite(loss)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == before["average/updates"] + 1


def test_a_gradient_that_is_not_finite_is_not_applied():
    """A loss that is finite may have one that is not: that of sqrt at 0."""

    class Root(keras_dit.Diffusion):
        def compute_loss(self, *arguments, **settings):
            loss = super().compute_loss(*arguments, **settings)
            return loss + ops.sqrt(ops.sum(0.0 * self.network.trainable_weights[0]))

    model = Root(keras_dit.DiTModel(**SIZES))
    model.compile(keras.optimizers.AdamW(1.0))  # through XLA where that is the default
    before = numbers(model)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    after = numbers(model)
    assert logs["skipped"] == 1
    for name in before:
        if name.startswith(("network/", "average/", "optimizer/")):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_the_loss_of_an_epoch_is_that_of_the_applied_steps(model):
    before = numbers(model)["skipped"]
    logs = model.fit(Batches(3, {1: NAN}), verbose=0).history
    assert logs["skipped"] == [before + 1]
    assert np.isfinite(logs["loss"]).all()


def test_many_in_a_row_end_the_training_and_name_the_step(model, tmp_path):
    count = 2 * MOST_IN_A_ROW + 5  # they are looked at so many at a time
    data = Batches(count, dict.fromkeys(range(2, count), NAN))
    message = rf"stopped at step {2 * MOST_IN_A_ROW} of epoch 1: .*learning rate"
    before = numbers(model)["optimizer/adam_w/iteration"]
    with pytest.raises(FloatingPointError, match=message):
        model.fit(data, verbose=0, callbacks=[checkpoints.Checkpoint(tmp_path, every=0)])
    after = numbers(model)
    assert after["optimizer/adam_w/iteration"] == before + 2
    arrays, _ = checkpoints.newest(tmp_path)[1:]
    for name, value in after.items():
        if name.startswith(("network/", "average/", "optimizer/")):
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(arrays[name], value)


def test_a_full_disk_ends_the_training_and_leaves_the_old_checkpoint(model, tmp_path):
    class Full(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    callbacks = [Full(), checkpoints.Checkpoint(tmp_path, every=0)]
    try:
        with pytest.raises(OSError, match=r"cannot write the checkpoint .*is intact"):
            model.fit(Batches(4, {}), verbose=0, callbacks=callbacks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # The second one may have been on its way to the disk.
    assert checkpoints.newest(tmp_path)[2]["step"] in (1, 2)


# Numbers and names that fit nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, r"patch_size=3.*\(4, 4, 1\)|\(4, 4, 1\).*patch_size=3"),
        ({"num_heads": 3}, "hidden_size=8, num_heads=3"),
        ({"hidden_size": 6, "num_heads": 3}, "multiple of num_heads and of 4.*hidden_size=6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([3] * 8, "must lie in 0 ... 2. Received: 3 at index 0"),
        ([0] * 7 + [-1], "must lie in 0 ... 2. Received: -1 at index 7"),
        ([0.5] * 8, "integers.*float64"),
        ([0] * 7, "must be 8 in number. Received: 7"),
    ],
)
def test_labels_that_do_not_fit_are_refused_on_the_host(model, labels, message):
    with pytest.raises(ValueError, match=message):
        model.fit(IMAGES, np.array(labels), verbose=0)
    if len(labels) == 8:
        with pytest.raises(ValueError, match=message):
            model.generate(labels)


@pytest.mark.parametrize("shape", [(8, 4, 4, 3), (8, 1, 4, 4), (8, 4, 4)])
def test_pictures_of_another_layout_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"channels last, here \(batch, 4, 4, 1\)"):
        model.fit(np.zeros(shape, "float32"), LABELS, verbose=0)


def test_pixels_out_of_range_are_warned_of_once(model):
    with pytest.warns(UserWarning, match=r"codecs.Pixels\(0, 255\)") as caught:
        model.fit(IMAGES * 255, LABELS, epochs=2, verbose=0)
    assert sum("Pixels" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_dit.DiTModel.from_preset("dit_x_2", input_shape=(4, 4, 1)), "dit_xl_2"),
        (lambda: datasets.load("digit"), "must be one of digits"),
    ],
)
def test_an_unknown_name_gets_the_valid_ones_the_nearest_first(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_guidance_scale_has_to_be_finite(scale):
    with pytest.raises(ValueError, match="scale"):
        guidance.ClassifierFree(scale)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_have_to_make_a_run(model, steps):
    with pytest.raises(ValueError, match=f"steps.*{steps}"):
        model.generate([0], steps=steps)


def test_one_step_starts_from_pure_noise():
    seen = []
    x0 = keras_dit.sampler.sample(
        lambda x, rates: keras_dit.Denoised(seen.append(float(rates.t)) or x),
        np.zeros((1, 2, 2, 1), "float32"),
        schedules.RectifiedFlow(),
        steps=1,
    )
    assert seen == [1.0]
    assert x0.shape == (1, 2, 2, 1)


# Data


def folder_of(place, **counts):
    for name, count in counts.items():
        (place / name).mkdir()
        for index in range(count):
            Image.fromarray(np.full((4, 4, 3), 40 * index, "uint8")).save(
                place / name / f"{index}.png"
            )
    return place


def test_a_broken_picture_is_named_or_counted(tmp_path):
    folder = folder_of(tmp_path, a=3, b=3)
    (folder / "a" / "1.png").write_bytes(b"")
    with pytest.raises(OSError, match=r"1\.png"):
        datasets.image_folder(folder, 4, batch_size=6)[0]
    with pytest.warns(UserWarning, match=r"skipped 1 of 6 images.*1\.png"):
        datasets.image_folder(folder, 4, batch_size=5, on_error="skip")


def test_no_data_is_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        datasets.image_folder(tmp_path, 4)
    with pytest.raises(ValueError, match=r"fewer images than one batch: .* at most 1"):
        datasets.image_folder(folder_of(tmp_path, a=1), 4)
    with pytest.raises(ValueError, match="there are no images"):
        model.fit(IMAGES[:0], LABELS[:0], verbose=0)


# The command


def command(*arguments):
    return main([str(argument) for argument in arguments])


def error_of(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("name", ["theano", "numpy", "openvino"])
def test_an_unknown_backend_is_refused_at_once(name):
    message = f"KERAS_BACKEND must be jax, torch or tensorflow. Received: KERAS_BACKEND={name}"
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "keras_dit", "info"],
        env={**os.environ, "KERAS_BACKEND": name},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"keras-dit: error: {message}\n"


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ("train", "--data", "digits", *TINY, "--run", tmp_path / "file" / "run")
    assert command(*arguments) == 2
    assert "cannot write to the folder" in error_of(capsys)


def test_a_traceback_is_shown_only_if_asked_for(tmp_path, capsys):
    arguments = ("train", "--resume", "--run", tmp_path)
    assert command(*arguments) == 2
    assert "holds no run to go on with" in error_of(capsys)
    with pytest.raises(FileNotFoundError):
        command(*arguments, "--debug")


def test_out_of_memory_says_what_helps(monkeypatch, capsys):
    """An allocation that no machine can serve, inside a command."""
    shape = (2**22, 2**22)  # 64 TiB

    def allocate(arguments):
        return float(ops.convert_to_numpy(ops.sum(ops.ones(shape, "float32") @ ops.ones(shape))))

    monkeypatch.setattr(keras_dit.cli.info, "run", allocate)
    assert command("info") == 1
    assert "out of memory. What helps: a smaller --batch-size" in error_of(capsys)
