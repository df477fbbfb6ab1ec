"""What callbacks see of a step: its numbers, which are read when one of them looks."""

import copy
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import backend
from keras_dit.backend import BACKEND
from keras_dit.training import callbacks
from keras_dit.training.callbacks import Callbacks, Logs

NUMBERS = {"a": 2.0, "b": 1.0}


def logs():
    return Logs({"b": ops.ones(()), "a": ops.convert_to_tensor(2.0)})


LOOKS = {
    "one": lambda x: {**NUMBERS, "a": x["a"]},
    "get": lambda x: {**NUMBERS, "a": x.get("a")},
    "dict": dict,
    "items": lambda x: dict(x.items()),
    "values": lambda x: dict(zip(x, x.values(), strict=True)),
    "two stars": lambda x: {**x},
    "function": lambda x: dict(**x),
    "update": lambda x: {} | x,
    "copy": lambda x: x.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "json": lambda x: json.loads(json.dumps(x)),
    "text": lambda x: eval(repr(x)),
    "pop": lambda x: {**NUMBERS, "a": x.pop("a"), **x},
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_finds_numbers(look):
    found = LOOKS[look](logs())
    assert found == NUMBERS
    assert list(found) == list(NUMBERS)  # sorted, as Keras has them
    assert all(type(number) is float for number in found.values())
    assert logs() == NUMBERS


def test_what_is_no_number_is_looked_at_without_a_wait():
    x = logs()
    assert len(x) == 2 and "a" in x and "c" not in x and x
    assert x.unread


def test_what_is_no_number_stays_as_it_is():
    x = Logs({"a": ops.ones(()), "b": "words", "c": ops.ones(2), "d": 3})
    assert (x["a"], x["b"], x["d"]) == (1.0, "words", 3.0)
    assert tuple(x["c"].shape) == (2,)


def test_a_callback_may_add_to_them():
    x = logs()
    x["c"] = 3.0
    x.update(d=4.0)
    assert x == {**NUMBERS, "c": 3.0, "d": 4.0}


class Looking(keras.callbacks.Callback):
    """Notes the logs of each step; of those not in `steps` whether anybody has read them."""

    def __init__(self, steps=()):
        super().__init__()
        self.steps, self.read, self.unread = steps, {}, []

    def on_train_batch_end(self, batch, logs=None):
        if batch in self.steps:
            self.read[batch] = dict(logs)
        else:
            self.unread.append(logs.unread)


@pytest.fixture(scope="module")
def diffusion():
    keras.utils.set_random_seed(0)
    model = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2))
    model.compile(keras.optimizers.AdamW(1e-3))
    return model


def images(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 4, 4, 1)).astype("float32")


def test_fit_reads_the_numbers_of_every_twentieth_step(diffusion):
    """By which it knows whether steps are applied; and that its bar shows, ten times a second."""
    looking = Looking()
    diffusion.fit(images(84), batch_size=2, verbose=0, callbacks=[looking])
    read = [i for i, unread in enumerate(looking.unread) if not unread]
    assert read == [19, 39]


def test_a_callback_that_looks_finds_what_keras_gives_it(diffusion):
    looking = Looking(range(4))
    history = diffusion.fit(images(8), batch_size=2, verbose=0, callbacks=[looking])
    assert list(looking.read) == [0, 1, 2, 3]
    assert list(looking.read[0]) == ["gradient_norm", "loss", "skipped"]
    assert looking.read[3]["loss"] == history.history["loss"][0]  # the mean of the epoch so far
    assert looking.read[3]["skipped"] == 0.0


class Result:
    """Of a step: notes when it is waited for."""

    def __init__(self, number, waited):
        self.block_until_ready = lambda: waited.append(number)


@pytest.mark.skipif(BACKEND != "jax", reason="what JAX waits for")
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_python_is_so_many_steps_ahead_and_no_more(ahead):
    waited, pace = [], backend.Pace(ahead)
    for step in range(5):
        pace.step({"loss": Result(step, waited)})
        assert waited == list(range(max(0, step + 1 - ahead)))


@pytest.mark.skipif(BACKEND != "jax", reason="what JAX waits for")
def test_on_a_cpu_each_step_is_waited_for():
    waited, pace = [], backend.Pace()
    pace.step([Result(0, waited)])
    assert waited == [0]


class Batches(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        return images(2)


class Loader:
    dataset = range(6)

    def __len__(self):
        return 3


COUNTED = {
    "arrays": ({"x": images(7), "batch_size": 2}, 4),
    "arrays without a size": ({"x": images(33)}, 2),
    "a part of arrays": ({"x": images(10), "batch_size": 2, "validation_split": 0.25}, 4),
    "steps": ({"x": iter([]), "steps_per_epoch": 5}, 5),
    "a PyDataset": ({"x": Batches()}, 3),
    "a DataLoader": ({"x": Loader()}, 3),
    "a generator": ({"x": iter([])}, None),
}


@pytest.mark.parametrize("case", COUNTED)
def test_the_steps_of_an_epoch_are_known_before_it(case):
    arguments, count = COUNTED[case]
    assert callbacks.steps(**arguments) == count


class Told(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.found = dict(self.params)


@pytest.mark.parametrize("case", ["arrays", "arrays without a size", "a PyDataset"])
def test_they_are_what_keras_reads(diffusion, case):
    arguments, count = COUNTED[case]
    told, looking = Told(), Looking()
    diffusion.fit(**arguments, epochs=1, verbose=0, callbacks=[told, looking])
    assert told.found == {"verbose": 0, "epochs": 1, "steps": count}
    assert len(looking.unread) == count


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a data set of TensorFlow")
def test_the_steps_of_a_data_set_of_tensorflow():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images(5)).batch(2)
    assert callbacks.steps(data) == 3
    assert callbacks.steps(data.repeat()) is None
    assert callbacks.steps(data.filter(lambda x: True)) is None


def test_the_bar_ends_at_what_it_counted(diffusion, capsys):
    """Of data whose length it does not know too, though it does not look at each step."""
    generator = ((images(2),) for _ in range(7))
    diffusion.fit(generator, verbose=1)
    assert "7/7" in capsys.readouterr().out


def test_the_list_is_one_of_keras(diffusion):
    found = Callbacks([], 2, diffusion, 1, 0)
    assert isinstance(found, keras.callbacks.CallbackList)
    assert any(isinstance(one, keras.callbacks.History) for one in found.callbacks)
