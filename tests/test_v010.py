"""What 0.1.0 wrote loads, gives the images that it gave there, and goes on training.

tests/goldens/make_v010.py made the files, with the code of 0.1.0, on each backend.
"""

import csv
import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_dit
from keras_dit import checkpoints, guidance, solvers
from keras_dit.checkpoints import Checkpoint
from keras_dit.cli import main as command

FOLDER = pathlib.Path(__file__).parent / "goldens" / "v010"
FILES = sorted(FOLDER.glob("*/*.keras")) + sorted(FOLDER.glob("*/run/model.keras"))
DIFFUSIONS = [path for path in FILES if path.stem != "dit"]
IMAGES, LABELS = (array[:20] for array in keras_dit.datasets.load_digits())


def identifier(path):
    return str(path.relative_to(FOLDER))


def arrays(path, name=None):
    """What 0.1.0 had from a file, as a dict."""
    name = name or ("run" if path.stem == "model" else path.stem)
    loaded = np.load(FOLDER / path.relative_to(FOLDER).parts[0] / "arrays.npz")
    found = {key.partition("/")[2]: loaded[key] for key in loaded if key.startswith(name + "/")}
    assert found
    return found


def assert_close(value, expected, tolerance=1e-4):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(value / scale, expected / scale, atol=tolerance, rtol=0)


def assert_images(model, golden, tolerance=1e-4):
    """The model makes the images that were made there."""
    labels = None if model.network.num_classes is None else [2, None]
    guided = guidance.Unguided() if labels is None else guidance.ClassifierFree(2.0)
    settings = {"seed": 3, "jit_compile": False}
    if labels is None:
        settings["num_images"] = 2
    for solver, steps, guide in (
        (solvers.DDIM(), 4, guidance.Unguided()),
        (solvers.DPMSolverPP2M(), 5, guided),
        (solvers.UniPC(), 8, guidance.Unguided()),
    ):
        images = model.generate(labels, steps=steps, solver=solver, guidance=guide, **settings)
        assert_close(images, golden[type(solver).__name__], tolerance)


def sizes(optimizer):
    values = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]
    return np.sort([np.abs(np.float64(value)).sum() for value in values])


def test_there_are_files_of_each_backend():
    assert {path.relative_to(FOLDER).parts[0] for path in FILES} == {"jax", "torch", "tensorflow"}


@pytest.mark.parametrize("path", DIFFUSIONS, ids=identifier)
def test_a_model_gives_the_same_images_and_goes_on_training(path):
    model, golden = keras.saving.load_model(path), arrays(path)
    assert_images(model, golden, tolerance=0.03 if path.stem == "bfloat16" else 1e-4)
    np.testing.assert_allclose(sizes(model.optimizer), golden["optimizer"], rtol=1e-6)
    if path.stem == "model":
        return  # a run's training goes on below
    before = int(model.optimizer.iterations)
    labels = None if model.network.num_classes is None else LABELS % model.network.num_classes
    model.fit(IMAGES, labels, batch_size=10, verbose=0)
    assert int(model.optimizer.iterations) == before + 2


@pytest.mark.parametrize("path", [p for p in FILES if p.stem == "dit"], ids=identifier)
def test_a_network_gives_the_same_output(path):
    network = keras.saving.load_model(path)
    times = np.array([0.0, 500.5, 999.0], "float32")
    output = network(IMAGES[:3], times, np.array([0, 2, 3]))
    assert_close(keras.ops.convert_to_numpy(output), arrays(path)["output"])


class Restored(keras.callbacks.Callback):
    """Looks at the model as training goes on: after what was saved was put into it."""

    def __init__(self, golden):
        super().__init__()
        self.golden, self.iterations = golden, None

    def on_epoch_begin(self, epoch, logs=None):
        if self.iterations is None:
            self.iterations = int(self.model.optimizer.iterations)
            assert_images(self.model, self.golden)
            np.testing.assert_allclose(
                sizes(self.model.optimizer), self.golden["optimizer"], rtol=1e-6
            )


def resumed(folder, *callbacks):
    """The training of make_v010.py, from the newest checkpoint in a folder to its end."""
    network = keras_dit.DiTModel(
        (8, 8, 1), patch_size=4, hidden_size=8, depth=2, num_heads=2, num_classes=3
    )
    model = keras_dit.Diffusion(network, codec=keras_dit.codecs.Latents(), ema=0.9)
    model.compile(keras.optimizers.AdamW(1e-2))
    stop = keras.callbacks.EarlyStopping("loss", patience=7)
    callbacks = [stop, *callbacks, Checkpoint(folder, resume=True)]
    data = {"x": IMAGES, "y": LABELS % 3, "batch_size": 10}
    assert len(model.fit(**data, epochs=4, verbose=0, callbacks=callbacks).epoch) == 4
    assert int(model.optimizer.iterations) == 8


@pytest.mark.filterwarnings("ignore:.*draws other random numbers:UserWarning")
def test_a_checkpoint_goes_on_from_its_step(tmp_path):
    source = FOLDER / "jax" / "checkpoints"
    shutil.copy(source / "step_00000005.safetensors", tmp_path)
    restored = Restored(arrays(source, "checkpoint"))
    resumed(tmp_path, restored)
    assert restored.iterations == 5


@pytest.mark.filterwarnings("ignore:.*draws other random numbers:UserWarning")
def test_the_best_checkpoint_goes_on(tmp_path):
    source = FOLDER / "jax" / "checkpoints" / "best.safetensors"
    steps = checkpoints.read(source)[1]["steps"]
    shutil.copy(source, tmp_path / f"step_{steps:08d}.safetensors")
    resumed(tmp_path)


@pytest.mark.filterwarnings("ignore:.*draws other random numbers:UserWarning")
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_a_run_goes_on_and_is_sampled(tmp_path, backend):
    run = tmp_path / "run"
    shutil.copytree(FOLDER / backend / "run", run)
    assert command(["train", "--resume", "--run", str(run)]) == 0
    with open(run / "log.csv") as log:
        assert {int(row["epoch"]) for row in csv.DictReader(log)} == {1, 2, 3}  # counted from 1 now
    assert int(keras.saving.load_model(run / "model.keras").optimizer.iterations) == 6
    out = tmp_path / "new.png"
    assert (
        command(["sample", str(run), "--num-images", "2", "--steps", "2", "--out", str(out)]) == 0
    )
    assert out.exists()
