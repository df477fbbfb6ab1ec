"""Images from one thread while another trains: each is what a training that ended there gives."""

import threading
from concurrent import futures

import keras
import numpy as np
from reference import path
from test_diffusion_fit import assert_same, averages, make

from keras_dit import backend
from keras_dit.backend import live
from keras_dit.codecs import Autoencoder, AutoencoderKL

X = np.random.default_rng(0).uniform(-1, 1, (32, 4, 4, 1)).astype("float32")
Y = np.arange(32) % 3
ASKED, STEPS, PATIENCE = 3, 6, 120.0  # seconds, for a thread that never answers
# Not by XLA on TensorFlow, which takes long to write its programs.
JIT_COMPILE = False if backend.BACKEND == "tensorflow" else "auto"
SETTING = {"labels": [0, 1], "steps": 3, "seed": 1, "jit_compile": JIT_COMPILE}


def trained(callback):
    keras.utils.set_random_seed(0)
    # An autoencoder's weights are the model's too, and read at the end of a generation.
    autoencoder = AutoencoderKL(1, 1, (4,), 1, groups=2, quant_conv=False, mid_attention=False)
    model = make(keras.optimizers.Adam(0.01), ema=0.5, codec=Autoencoder(autoencoder))
    watching = callback(model)
    x, y = X[: 4 * STEPS], Y[: 4 * STEPS]
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[watching])
    return model, watching


class Aside(keras.callbacks.Callback):
    """Lets a thread generate, of which a step is done at each step of the training; then freely."""

    def __init__(self, model):
        super().__init__()
        self.asked_of = model
        self.moved, self.may_move, self.over = (threading.Event() for _ in range(3))
        self.images, self.errors = [], []
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        try:
            while not self.over.is_set():
                self.images.append(self.asked_of.generate(**SETTING, callback=self.take_turn))
        except Exception as error:
            self.errors.append(error)
        finally:
            self.moved.set()

    def take_turn(self, *_):
        self.moved.set()
        if not self.images:
            self.may_move.wait(PATIENCE)
            self.may_move.clear()

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 < ASKED:
            return
        if batch + 1 == ASKED:
            self.thread.start()
        self.may_move.set()
        self.moved.wait(PATIENCE)
        self.moved.clear()

    def on_train_end(self, logs=None):
        self.over.set()
        self.thread.join(PATIENCE)


class Between(keras.callbacks.Callback):
    """Generates between two steps, and keeps the weights that a thread would have."""

    def __init__(self, model):
        super().__init__()
        self.own = model

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == ASKED:
            self.images = self.own.generate(**SETTING)
            with futures.ThreadPoolExecutor() as pool:
                self.average = pool.submit(self.read).result()
            # `self.model` puts the values back into the variables first.
            self.expected = self.model.generate(**SETTING), averages(self.model)

    def read(self):
        named = zip(names_of(self.own), self.own.denoiser().values, strict=True)
        return {name: keras.ops.convert_to_numpy(value) for name, value in named}


def names_of(model):
    return [path(model.network, weight) for weight in model.network.weights]


def test_a_thread_generates_while_another_trains():
    model, aside = trained(Aside)
    assert aside.errors == []
    alone, between = trained(Between)
    assert_same(alone, model)
    for name, value in averages(alone).items():
        np.testing.assert_array_equal(averages(model)[name], value, err_msg=name)
    images, average = between.expected
    for name, value in average.items():
        np.testing.assert_array_equal(between.average[name], value, err_msg=name)
    np.testing.assert_allclose(between.images, images, atol=1e-5)
    np.testing.assert_allclose(aside.images[0], images, atol=1e-5)
    assert all(np.isfinite(images).all() for images in aside.images)
    np.testing.assert_allclose(model.generate(**SETTING), alone.generate(**SETTING), atol=1e-5)


def test_whoever_waits_is_next():
    """Steps that follow each other at once leave nobody waiting for longer than one of them."""
    values, steps, over = backend.LiveValues(), [], threading.Event()

    def step():
        steps.append(len(steps))
        over.wait(0.01)
        return {}, ()

    def train():
        with values.running():
            watched = values.watched(step)
            while not over.is_set() and len(steps) < 1000:
                watched()

    thread = threading.Thread(target=train)
    thread.start()
    variable = keras.Variable(np.ones(2, "float32"), trainable=False)
    for _ in range(5):
        before = len(steps)
        (value,) = values.taken(keras.Model(), [variable])
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), 1.0)
        assert len(steps) <= before + 2
    over.set()
    thread.join()


def test_private_name_of_keras():
    """Gone from Keras: look in backend/live.py for where a variable has its value now."""
    assert hasattr(keras.Variable(np.zeros(2, "float32")), live.VALUE)
