"""A training that is stopped at any step and goes on ends as if it had never been stopped."""

import os
import shutil
import signal

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import checkpoints, datasets, schedules
from keras_dit.backend import BACKEND
from keras_dit.checkpoints import Checkpoint
from keras_dit.diffusion import Diffusion
from keras_dit.networks import DiTModel
from keras_dit.training.checkpoints import positions
from keras_dit.training.checkpoints.state import variables

EPOCHS, STEPS = 3, 4  # of each epoch
IMAGES = np.random.default_rng(0).uniform(-1, 1, (17, 4, 4, 1)).astype("float32")
LABELS = np.arange(17) % 3


class KilledError(Exception):
    """Stands for the machine's death: nothing is called after it."""


class KillAt(keras.callbacks.Callback):
    """Ends `fit` in a step, so many in all, before its checkpoint."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KilledError


def make(seed=1, dtype="float32", **settings):
    keras.utils.set_random_seed(seed)
    network = DiTModel(
        input_shape=(4, 4, 1),
        patch_size=2,
        hidden_size=8,
        depth=1,
        num_heads=2,
        num_classes=3,
        label_dropout=0.5,
        dtype=dtype,
    )
    model = Diffusion(network, schedules.CosineBeta(), ema=0.9)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, EPOCHS * STEPS)
    model.compile(keras.optimizers.AdamW(rate), jit_compile=BACKEND == "jax", **settings)
    return model


def batches(**settings):
    return datasets.ImageBatches(IMAGES, LABELS, 4, flip=True, seed=3, **settings)


def train(model, folder, data=None, kill=None, every=0.0, **settings):
    callbacks = [Checkpoint(folder, every=every, resume=True)]
    if kill:
        callbacks.append(KillAt(kill))
    data = (batches(),) if data is None else data
    return model.fit(*data, epochs=EPOCHS, verbose=0, callbacks=callbacks, **settings).history


def numbers(model):
    """Every variable but the metrics, which validation leaves anywhere."""
    named = {n: v for n, v in variables(model).items() if not n.startswith("metrics/")}
    return {name: np.array(ops.convert_to_numpy(value)) for name, value in named.items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """One model for many runs, and the file of how it began: each of its own would be compiled."""
    model = make()
    path = tmp_path_factory.mktemp("begin") / "begin.safetensors"
    checkpoints.save(path, model, {})
    return model, path


@pytest.fixture
def begin(learner):
    """The model as it began."""
    model, path = learner
    checkpoints.load(model, path, *checkpoints.read(path))
    return model


@pytest.fixture(scope="module")
def whole(learner, tmp_path_factory):
    """A run that nothing stopped: its history and what it ended with."""
    model, path = learner
    checkpoints.load(model, path, *checkpoints.read(path))
    history = train(model, tmp_path_factory.mktemp("whole"), validation_data=(IMAGES, LABELS))
    return history, numbers(model)


@pytest.mark.parametrize("step", [2, STEPS + 1, 2 * STEPS, EPOCHS * STEPS])
def test_a_run_stopped_at_any_step_ends_as_the_whole_one(whole, begin, tmp_path, step):
    with pytest.raises(KilledError):
        train(begin, tmp_path, kill=step, validation_data=(IMAGES, LABELS))
    history = train(begin, tmp_path, validation_data=(IMAGES, LABELS))
    assert history == whole[0]
    assert_same(numbers(begin), whole[1])


def test_a_new_model_in_mixed_precision_goes_on_too(tmp_path):
    model = make(dtype="mixed_bfloat16")
    with pytest.raises(KilledError):
        train(model, tmp_path / "a", kill=7)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    history = train(model, tmp_path / "a")
    new = make(seed=99, dtype="mixed_bfloat16")  # other weights, other seeds: all is in the file
    assert train(new, tmp_path / "b") == history
    assert_same(numbers(new), numbers(model))


def test_arrays_go_on_too(begin, tmp_path):
    data = (IMAGES, LABELS)
    settings = {"batch_size": 4, "sample_weight": np.linspace(0.5, 1.5, 17)}
    with pytest.raises(KilledError):
        train(begin, tmp_path / "a", data, kill=8, **settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ends = []
    for place in ("a", "b"):  # once at once, once with another stop
        if place == "b":
            with pytest.raises(KilledError):
                train(begin, tmp_path / place, data, kill=2, **settings)
        history = train(begin, tmp_path / place, data, **settings)
        ends.append((history, numbers(begin)))
    assert ends[0][0] == ends[1][0]
    assert len(ends[0][0]["loss"]) == EPOCHS
    assert_same(ends[0][1], ends[1][1])


def test_other_callbacks_go_on_counting(begin, tmp_path):
    """Patience runs out in the epoch in which it would have without the kill, arguments stay."""

    def fit(place, patience, *more):
        stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=patience)
        callbacks = [stop, Checkpoint(tmp_path / place, every=0, resume=True), *more]
        return begin.fit(batches(), epochs=9, verbose=0, callbacks=callbacks).epoch

    with pytest.raises(KilledError):
        fit("a", 3, KillAt(2 * STEPS + 2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fit("a", 3) == [0, 1, 2, 3]
    assert fit("b", 4) == [0, 1, 2, 3, 4]


class Plain(keras.utils.PyDataset):
    """Data that knows no places."""

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return IMAGES[:4], LABELS[:4]


def test_data_without_places_begins_its_epoch_again_and_says_so(begin, tmp_path):
    with pytest.raises(KilledError):
        train(begin, tmp_path, (Plain(),), kill=STEPS + 3)
    with pytest.warns(UserWarning, match="Plain cannot be read from a given batch on: epoch 2"):
        history = train(begin, tmp_path, (Plain(),))
    assert len(history["loss"]) == EPOCHS
    assert numbers(begin)["optimizer/adam_w/iteration"] == EPOCHS * STEPS + 2


class Ask(keras.callbacks.Callback):
    """Sends this process a signal in a step, as Ctrl-C or a job's scheduler would."""

    def __init__(self, number, step):
        super().__init__()
        self.number, self.step = number, step

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, STEPS - 1])
def test_a_signal_ends_the_training_after_its_step_saved(begin, tmp_path, number, step):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    callbacks = [Ask(number, step), Checkpoint(tmp_path)]  # which would save in a minute
    with pytest.raises(KeyboardInterrupt, match="interrupted; saved") as caught:
        begin.fit(batches(), epochs=EPOCHS, verbose=0, callbacks=callbacks)
    assert caught.value.signal == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    path, arrays, facts = checkpoints.newest(tmp_path)
    assert path == caught.value.path
    assert facts["steps"] == step + 1
    assert arrays["optimizer/adam_w/iteration"] == step + 1
    assert [row["epoch"] for row in facts["history"]] == ([0] if step == STEPS - 1 else [])


def test_a_run_that_is_done_stays_as_it_is(begin, tmp_path):
    history = train(begin, tmp_path)
    end, files = numbers(begin), sorted(tmp_path.iterdir())
    assert train(begin, tmp_path) == history
    assert_same(numbers(begin), end)
    assert sorted(tmp_path.iterdir()) == files


def test_the_newest_few_and_the_best_are_kept(begin, tmp_path):
    begin.fit(batches(), epochs=2, verbose=0, callbacks=[Checkpoint(tmp_path, every=0, keep=2)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.safetensors", "step_00000007.safetensors", "step_00000008.safetensors"]
    facts = checkpoints.read(tmp_path / "best.safetensors")[1]
    losses = [row["loss"] for row in checkpoints.newest(tmp_path)[2]["history"]]
    assert facts["best"] == min(losses)
    assert facts["epoch"] == int(np.argmin(losses)) + 1


# What does not fit is refused


def test_a_folder_in_use_is_not_overwritten(begin, tmp_path):
    begin.fit(batches(), verbose=0, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(ValueError, match="holds checkpoints already"):
        begin.fit(batches(), verbose=0, callbacks=[Checkpoint(tmp_path)])


def test_other_data_is_refused(begin, tmp_path):
    begin.fit(batches(), verbose=0, callbacks=[Checkpoint(tmp_path)])
    other = datasets.ImageBatches(IMAGES, LABELS, 4, flip=True, seed=4)
    with pytest.raises(ValueError, match=r"the data is not that of .*: seed=4, was 3$"):
        train(begin, tmp_path, (other,))


def test_a_run_on_whole_images_does_not_go_on_with_drafts(tmp_path):
    """Nor one of 0.1.0, which knew none and did not write down that it had none."""

    def data(draft):
        files = datasets.ImageFiles([tmp_path / "a.jpg"] * 4, (8, 8), draft=draft)
        return positions.description(datasets.ImageBatches(files, [0] * 4, 4))

    old = {name: value for name, value in data(False).items() if name != "draft"}
    for before in (old, data(False)):
        positions.check_same(tmp_path, data(False), before)
        with pytest.raises(ValueError, match=r"not that of .*: draft=True, was False$"):
            positions.check_same(tmp_path, data(True), before)


def test_another_configuration_is_refused_and_changes_nothing(begin, learner, tmp_path):
    path = tmp_path / "other.safetensors"
    arrays, facts = checkpoints.read(learner[1])
    arrays = dict(arrays)
    arrays["network/extra"] = arrays.pop("network/label/table")
    arrays["network/patches/projection/bias"] = np.zeros(9, "float32")
    checkpoints.write(path, arrays, facts)
    begin.train_on_batch(IMAGES[:4], LABELS[:4])
    before = numbers(begin)
    message = (
        "of another configuration: network/label/table is not in the file; network/extra is not "
        r"in the model; network/patches/projection/bias is float32\(9,\) in the file, float32\(8,\)"
    )
    with pytest.raises(ValueError, match=message):
        checkpoints.load(begin, path, *checkpoints.read(path))
    assert_same(numbers(begin), before)


def test_another_backend_s_checkpoint_is_taken_and_that_is_said(begin, learner, tmp_path):
    """Its integers have other widths and its random numbers another sequence."""
    arrays, facts = checkpoints.read(learner[1])
    other = "torch" if BACKEND != "torch" else "jax"
    wide = {n: a.astype("int64") if a.dtype.kind in "iu" else a for n, a in arrays.items()}
    checkpoints.write(tmp_path / "a.safetensors", wide, {**facts, "backend": other})
    before = numbers(begin)
    begin.train_on_batch(IMAGES[:4], LABELS[:4])
    read = checkpoints.read(tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=f"written with {other}.*{BACKEND} draws other random"):
        checkpoints.load(begin, tmp_path / "a.safetensors", *read)
    assert_same(numbers(begin), before)
