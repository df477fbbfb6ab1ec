"""A training that is stopped at any step and goes on ends as if it had never been stopped."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import datasets, schedules
from keras_dit.backend import BACKEND
from keras_dit.checkpoints import Checkpoint
from keras_dit.checkpoints.state import variables
from keras_dit.diffusion import Diffusion
from keras_dit.dit import DiTModel

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
def whole(tmp_path_factory):
    """A run that nothing stopped: its history and what it ended with."""
    model = make()
    history = train(model, tmp_path_factory.mktemp("whole"), validation_data=(IMAGES, LABELS))
    return history, numbers(model)


@pytest.mark.parametrize("step", [2, STEPS + 1, 2 * STEPS, EPOCHS * STEPS])
def test_a_run_stopped_at_any_step_ends_as_the_whole_one(whole, tmp_path, step):
    with pytest.raises(KilledError):
        train(make(), tmp_path, kill=step, validation_data=(IMAGES, LABELS))
    model = make(seed=99)  # other weights, other seeds: all has to come from the file
    history = train(model, tmp_path, validation_data=(IMAGES, LABELS))
    assert history == whole[0]
    assert_same(numbers(model), whole[1])
