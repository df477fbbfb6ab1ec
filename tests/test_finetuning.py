"""Laws of keras-dit train --from MODEL: any model goes on, on any data, with what fits of it."""

import argparse
import json
import shutil

import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import conditions, processes
from keras_dit.cli import main, models, parser, plan, start, texts
from keras_dit.codecs import Latents, Pixels
from keras_dit.networks.naming import of_weights


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


def filled(network):
    numbers = np.random.default_rng(0)
    for weight in network.trainable_weights:
        weight.assign(0.1 * numbers.standard_normal(weight.shape))
    return network


def values(network):
    return {n: np.array(ops.convert_to_numpy(w)) for n, w in of_weights(network).items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Latents of three classes, as facebookresearch/DiT writes its checkpoints."""
    network = keras_dit.DiTModel((4, 4, 4), 2, 8, 1, 2, num_classes=3, learned_variance=True)
    path = tmp_path_factory.mktemp("weights") / "DiT-tiny.pt"
    keras_dit.weights.export(filled(network), path, class_names=["cat", "dog", "owl"])
    return path


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Other latents of two classes, one of which the network knows."""
    path = tmp_path_factory.mktemp("data") / "pets.npz"
    images = np.random.default_rng(1).uniform(-1, 1, (8, 8, 4, 4)).astype("float32")
    labels = np.arange(8, dtype="int32") % 2
    np.savez(path, images=images, labels=labels, class_names=["pig", "owl"])
    return path


@pytest.fixture(scope="module")
def run(file, pets, tmp_path_factory):
    """Two steps on them, some weights frozen, and what was said."""
    folder = tmp_path_factory.mktemp("runs") / "pets"
    how = ["--method", "flow", "--freeze", "time|attention", "--checkpoint-every", 0]
    options = ["--data", pets, "--from", file, "--batch-size", 8, "--epochs", 2, *how]
    assert command("train", *options, "--run", folder) == 0
    return folder


def test_a_foreign_checkpoint_goes_on_for_other_data(run, file):
    new, old = models.load(run).diffusion, keras_dit.weights.load(file)
    assert new.class_names == ("pig", "owl")
    assert new.codec == Latents()
    assert new.network.image_shape == (8, 4, 4)
    ours, theirs = values(new.network), values(old)
    frozen = [name for name, w in of_weights(new.network).items() if not w.trainable]
    assert {name.split("/")[0] for name in frozen} == {"positions", "time", "block_0"}
    for name in frozen[1:]:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert (ours["block_0/mlp/mlp_in/kernel"] != theirs["block_0/mlp/mlp_in/kernel"]).any()
    # AdamW moves by its rate at most, 0.016 here, in each of two steps.
    rows = ours["label/table"][1:], theirs["label/table"][2:]  # the owl, and "no class"
    np.testing.assert_allclose(*rows, atol=0.04)


def test_such_a_run_goes_on_bit_for_bit(run, tmp_path):
    half = shutil.copytree(run, tmp_path / "half")
    (half / "checkpoints" / "step_00000002.safetensors").unlink()
    assert command("train", "--resume", "--run", half) == 0
    again, whole = (values(models.load(f, raw=True).diffusion.network) for f in (half, run))
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)
    assert json.loads((half / "config.json").read_text())["arguments"]["freeze"]


# What becomes of a model, without the training


class Data:
    """What is asked of a data set before any image is read."""

    batch_size = 4

    def __init__(self, shape, names=(), **told):
        self.input_shape, self.class_names, self.conditions = shape, tuple(names), told
        self.num_classes = len(names) or None
        self.images = range(8)

    def __len__(self):
        return 2


def begun(source, data, codec=None, **given):
    """The model that a run would train, and what is said."""
    arguments = parser().parse_args(["train", "--run", "RUN", "--from", str(source)])
    chosen = {"any_memory": True, "dtype": "float32", "ema": 0.9, **given}
    settings = argparse.Namespace(**{**vars(arguments), **chosen})
    found = start.opened(settings, vars(settings), data, codec or Pixels())
    plan.fill(settings, data, found.codec, found.config)
    return start.model(found, settings, given.get("method")), found.notes


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A .keras file of a network of colour images that is told more than classes."""
    told = {"age": conditions.Vector(1)}
    network = keras_dit.DiTModel((8, 8, 3), 2, 8, 1, 2, num_classes=2, conditions=told)
    path = tmp_path_factory.mktemp("models") / "photos.keras"
    names = ["cat", "dog"]
    keras_dit.Diffusion(filled(network), class_names=names).save(path)
    return path


def test_a_model_of_ones_own_goes_on_with_other_patches_and_channels(photos):
    model, said = begun(photos, Data((16, 16, 1), ["dog", "cat"]), patch_size=4)
    old = models.load(photos).diffusion
    ours, theirs = values(model.network), values(old.network)
    np.testing.assert_array_equal(ours["label/table"], theirs["label/table"][[1, 0, 2]])
    np.testing.assert_array_equal(ours["positions"], theirs["positions"])
    assert model.network.image_shape == (16, 16, 1)
    assert model.process == old.process
    assert list(model.network.conditions) == ["label"]
    assert said == [
        f"start: the average of the weights of {photos}",
        "classes: 2 of 2 kept, by name: dog, cat",
        "age: dropped",
        "maps of input and output: resized from patches of 2 x 2 x 3 to patches of 4 x 4 x 1",
    ]
    for value, weight in zip(model.average.values, model.network.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (value, weight)))


def test_another_process_is_said_and_fitted(photos, file):
    model, said = begun(photos, Data((8, 8, 3)), method="dit")
    assert model.process == processes.named("dit")
    assert "process: dit, was ddpm; what the output means is learned anew" in said
    assert "label: dropped" in said
    assert "output: channels beside the 3 of an image join, at zero" in said
    model, _ = begun(file, Data((4, 4, 4), ["a"]), method="flow")
    assert model.prediction.output_channels(4) == 8
    assert begun(photos, Data((8, 8, 3)), method="ddpm")[1][1:] == [
        "label: dropped",
        "age: dropped",
    ]


def test_a_student_goes_on_without_its_teacher(tmp_path):
    old = keras_dit.Diffusion(keras_dit.DiTModel((8, 8, 3), 2, 8, 1, 2))
    old.objective = keras_dit.objectives.Distillation(old, old.objective)
    old.save(tmp_path / "student.keras")
    model, _ = begun(tmp_path / "student.keras", Data((8, 8, 3)))
    assert model.process == processes.named("ddpm")


def test_latents_are_not_taken_for_images(file):
    with pytest.raises(ValueError, match=r"give the autoencoder they are of by --autoencoder"):
        begun(file, Data((32, 32, 3), ["a"]))


def test_texts_go_on_with_more_words(tmp_path):
    captions = ["a red three", "a blue seven"]
    parts = texts.parts(Data((8, 8, 1), text=captions), 2)
    size = {"input_shape": (8, 8, 1), "patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
    network = keras_dit.DiTModel.from_config({**size, **parts})
    keras_dit.Diffusion(filled(network)).save(tmp_path / "model.keras")
    more = Data((8, 8, 1), text=["a red three above a green three"])
    model, said = begun(tmp_path / "model.keras", more)
    text, old = model.network.conditions["text"], network.conditions["text"]
    assert text.encoder.words == (*old.encoder.words, "above", "green")
    assert text.length == 7
    texts.check(model.network, more)
    rows = ops.convert_to_numpy(text.encoder.table)[: old.encoder.table.shape[0]]
    np.testing.assert_array_equal(rows, ops.convert_to_numpy(old.encoder.table))
    assert "text/encoder/places: 3 of 7 rows are kept" in said
    told = text.check(["a blue seven"]), old.check(["a blue seven"])
    np.testing.assert_array_equal(told[0][:, :3], told[1])
