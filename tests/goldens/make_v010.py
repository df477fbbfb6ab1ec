"""Files of keras_dit 0.1.0, and images made from them: tests/test_v010.py loads them today.

    git worktree add /tmp/v010 92a3da7      # the code of 0.1.0
    PYTHONPATH=/tmp/v010 KERAS_BACKEND=jax python tests/goldens/make_v010.py

and the same with torch and with tensorflow. Writes tests/goldens/v010/BACKEND/: `.keras` files of
models that trained for a few steps, optimizer included; `run/`, the folder of a command
`keras-dit train` that was stopped within an epoch; and arrays.npz, which says what came out of
each of them. To be small, only one backend writes each other kind of model, and `checkpoints/` of a
training from Python.
"""

import pathlib
import shutil
import zipfile

import keras
import numpy as np

import keras_dit
from keras_dit import checkpoints, guidance, objectives, predictions, schedules, solvers
from keras_dit.cli import main as command

assert keras_dit.__version__ == "0.1.0"
BACKEND = keras.config.backend()
FOLDER = pathlib.Path(__file__).parent / "v010" / BACKEND
IMAGES, LABELS = keras_dit.datasets.load_digits()
IMAGES, LABELS = IMAGES[:20], LABELS[:20] % 3
SHAPE = (8, 8, 1)
ARRAYS = {}


def network(**settings):
    settings = {"num_classes": 3, **settings}
    return keras_dit.DiTModel(SHAPE, patch_size=4, hidden_size=8, depth=2, num_heads=2, **settings)


def compiled(*parts, **settings):
    model = keras_dit.Diffusion(*parts, **{"ema": 0.9, **settings})
    model.compile(keras.optimizers.AdamW(1e-2))
    return model


def record(name, model):
    """What a model gives: images by three solvers, and the size of each optimizer variable."""
    labels = None if model.network.num_classes is None else [2, None]
    guided = guidance.Unguided() if labels is None else guidance.ClassifierFree(2.0)
    for solver, steps, guide in (
        ("DDIM", 4, guidance.Unguided()),
        ("DPMSolverPP2M", 5, guided),
        ("UniPC", 8, guidance.Unguided()),
    ):
        ARRAYS[f"{name}/{solver}"] = model.generate(
            labels, None if labels else 2, steps, getattr(solvers, solver)(), guide, seed=3
        )
    sizes = [np.abs(np.float64(v)).sum() for v in map(to_numpy, model.optimizer.variables)]
    ARRAYS[f"{name}/optimizer"] = np.sort(sizes)


def to_numpy(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


class StopError(Exception):
    """Stands for the machine's death."""


class Stop(keras.callbacks.Callback):
    """Ends `fit` in its n-th step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise StopError


def compress(path):
    """Write a `.keras` file, which is a zip, with compression."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, content in members.items():
            file.writestr(name, content)


LATENTS = keras_dit.codecs.Latents()  # which does not clip
FLOW = (
    schedules.RectifiedFlow(),
    predictions.FlowVelocity(),
    objectives.MeanSquaredError(times=objectives.LogitNormalTimes()),
)
MODELS = {
    "ddpm": lambda: compiled(network(learned_variance=True), codec=LATENTS),
    "flow": lambda: compiled(network(), *FLOW),
    "unconditional": lambda: compiled(
        network(num_classes=None), schedules.CosineBeta(), predictions.V(), ema=None
    ),
    "bfloat16": lambda: compiled(network(dtype="mixed_bfloat16"), *FLOW),
}
OTHER = {"jax": "flow", "torch": "unconditional", "tensorflow": "bfloat16"}


def model(name):
    """The file of one kind of model."""
    made = MODELS[name]()
    labels = None if made.network.num_classes is None else LABELS
    made.fit(IMAGES, labels, batch_size=10, epochs=30, verbose=0)
    made.save(FOLDER / f"{name}.keras")
    compress(FOLDER / f"{name}.keras")
    record(name, made)
    return made


def dit(network):
    """The file of a network alone."""
    network.save(FOLDER / "dit.keras")
    compress(FOLDER / "dit.keras")
    times = np.array([0.0, 500.5, 999.0], "float32")
    ARRAYS["dit/output"] = to_numpy(network(IMAGES[:3], times, np.array([0, 2, 3])))


def training():
    """A training that died in step 2 of its third epoch."""
    callbacks = [checkpoints.Checkpoint(FOLDER / "checkpoints", every=0, keep=1), Stop(6)]
    callbacks.insert(0, keras.callbacks.EarlyStopping("loss", patience=7))
    model = compiled(network(), codec=LATENTS)
    try:
        model.fit(IMAGES, LABELS, batch_size=10, epochs=4, verbose=0, callbacks=callbacks)
    except StopError:
        path, arrays, facts = checkpoints.newest(FOLDER / "checkpoints")
        checkpoints.load(model, path, arrays, facts)
        record("checkpoint", model)


def run():
    """A run that ended, without what it saved after step 4 of its 6."""
    folder = FOLDER / "run"
    size = "--hidden-size 8 --depth 2 --num-heads 2 --patch-size 4"
    length = "--epochs 3 --batch-size 800 --checkpoint-every 0 --learning-rate 0.01 --ema 0.9"
    assert command(f"train --data digits --run {folder} {size} {length}".split()) == 0
    record("run", keras.saving.load_model(folder / "model.keras"))
    compress(folder / "model.keras")
    for path in folder.glob("checkpoints/*"):
        if path.stem != "step_00000005":
            path.unlink()
    shutil.rmtree(folder / "samples")


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    keras.utils.set_random_seed(0)
    ddpm = model("ddpm")
    model(OTHER[BACKEND])
    if BACKEND == "torch":
        dit(ddpm.network)
    if BACKEND == "jax":
        training()
    run()
    np.savez_compressed(FOLDER / "arrays.npz", **ARRAYS)
