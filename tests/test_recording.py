"""On a GPU torch records loss and gradient of a training step: the same numbers, to the bit.

Asked for on a CPU, where torch finds no graph to capture and runs the same program.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit.backend import BACKEND, compiling

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="a record of torch")

SIZES = {"input_shape": (8, 8, 1), "patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(-1, 1, (4, 8, 8, 1)).astype("float32")
LABELS = np.array([0, 1, 2, 0])


class Drawing(keras_dit.DiTModel):
    """A network that draws random numbers in training, such as one with dropout of its own."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        object.__setattr__(self, "drawing", keras.random.SeedGenerator(0))  # it is built already

    def call(self, x, *arguments, **settings):
        noise = keras.random.normal(ops.shape(x), seed=self.drawing)
        return super().call(x + 0.1 * noise, *arguments, **settings)


def model(kind=keras_dit.DiTModel, process=None, **settings):
    keras.utils.set_random_seed(0)
    process = None if process is None else keras_dit.processes.named(process)
    parts = {} if process is None else process.network_parts()
    network = kind(**SIZES, num_classes=3, **parts, **settings)
    made = keras_dit.Diffusion(network, process=process)
    made.compile(keras.optimizers.AdamW(1e-2))
    return made


def trained(model, steps=5, images=IMAGES, labels=LABELS, **more):
    logs = [model.train_on_batch(images, labels, return_dict=True, **more) for _ in range(steps)]
    numbers = {_name(v): ops.convert_to_numpy(v).copy() for v in model.variables}
    return numbers, [log["loss"] for log in logs]


def _name(variable):
    return variable.path.partition("/")[2]  # without that of the model, which counts up


def programs(model):
    return [program for program in model.programs._made.values() if program.run is not None]


CASES = {
    "dit": {"process": "dit", "learned_variance": True},
    "flow": {"process": "flow"},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "float16": {"dtype": "mixed_float16"},
    "remat": {"remat": True},
    "direction": {"process": "lightningdit"},
    "consistency": {"process": "consistency"},
    "meanflow": {"process": "meanflow"},
    "drawing": {"kind": Drawing},
}
RUN_AS_THEY_ARE = ("drawing",)


@pytest.mark.parametrize("case", CASES)
def test_what_is_recorded_trains_alike(monkeypatch, case):
    expected, losses = trained(model(**CASES[case]))
    monkeypatch.setattr(compiling, "captures", lambda device: True)
    recorded = model(**CASES[case])
    found, as_recorded = trained(recorded)
    assert as_recorded == losses
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert len(programs(recorded)) == (case not in RUN_AS_THEY_ARE)


def test_nothing_is_recorded_where_that_is_asked(monkeypatch):
    monkeypatch.setattr(compiling, "captures", lambda device: True)
    made = model()
    made.compile(keras.optimizers.AdamW(1e-2), jit_compile=False)
    trained(made)
    assert made.programs is None


def test_what_is_frozen_may_be_set_meanwhile(monkeypatch):
    """It is read anew at each step, as are labels, weights of samples and what is no label."""

    def run():
        made = model()
        frozen = made.network.layers[0]
        frozen.trainable = False
        made.compile(keras.optimizers.AdamW(1e-2))
        trained(made)
        frozen.set_weights([0.5 * w for w in frozen.get_weights()])
        trained(made, 3, IMAGES[::-1].copy(), LABELS[::-1].copy())
        return trained(made, 4, sample_weight=np.array([1.0, 0.0, 2.0, 0.5], "float32")), made

    expected, _ = run()
    monkeypatch.setattr(compiling, "captures", lambda device: True)
    found, made = run()
    assert found[1] == expected[1]
    for name, value in expected[0].items():
        np.testing.assert_array_equal(found[0][name], value, err_msg=name)
    assert len(programs(made)) == 2  # without weights of the samples, and with them


def test_a_step_that_is_not_finite_is_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "captures", lambda device: True)
    made = model()
    before, _ = trained(made)
    after, _ = trained(made, 1, labels=np.array([0, 1, 2, 7]))  # which the network does not know
    assert after["skipped"] == before["skipped"] + 1
    weights = {_name(v) for v in made.network.trainable_variables}
    for name in weights:
        np.testing.assert_array_equal(after[name], before[name])


def test_another_objective_is_recorded_anew(monkeypatch):
    monkeypatch.setattr(compiling, "captures", lambda device: True)
    made = model()
    trained(made)
    first = made.programs
    made.objective = keras_dit.objectives.MeanSquaredError(
        weighting=keras_dit.objectives.MinSNR(1.0)
    )
    trained(made)
    assert made.programs is not first
    assert len(programs(made)) == 1
