"""Laws of adapters in the command: a run that trains them, and models that wear them."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import adapt, checkpoints, weights
from keras_dit.cli import main, models
from keras_dit.networks.naming import of_weights


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


def values(network):
    return {n: np.array(ops.convert_to_numpy(w)) for n, w in of_weights(network).items()}


def same(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained network for three classes, as facebookresearch/DiT has it."""
    numbers = np.random.default_rng(0)
    network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=8, depth=1, num_heads=2, num_classes=3)
    for weight in network.trainable_weights:
        weight.assign(0.2 * numbers.standard_normal(weight.shape))
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    process = keras_dit.processes.named("flow")
    weights.export(network, path, class_names=["cat", "dog", "owl"], process=process)
    return path


def arguments(base, data):
    """Two epochs of two steps at one rate."""
    how = ["--from", base, "--lora", 2, "--lora-alpha", 4, "--checkpoint-every", 0, "--ema", 0.5]
    rate = ["--learning-rate", 0.1, "--schedule", "constant", "--warmup", 0]
    return [*how, *rate, "--data", data, "--epochs", 2, "--batch-size", 4]


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """Two epochs of two steps on images of two classes, one of which the network knows."""
    folder = tmp_path_factory.mktemp("runs")
    images = np.random.default_rng(1).uniform(-1, 1, (8, 8, 8, 1)).astype("float32")
    names = {"labels": np.arange(8, dtype="int32") % 2, "class_names": ["pig", "owl"]}
    np.savez(folder / "pets.npz", images=images, **names)
    given = arguments(base, folder / "pets.npz")
    assert command("train", *given, "--run", folder / "pets") == 0
    return folder / "pets"


def test_a_run_trains_adapters_and_the_rows_of_new_classes_alone(run, base):
    below = keras.saving.load_model(run / "below.keras")
    same(
        {n: v for n, v in values(below).items() if n != "label/table"},
        {n: v for n, v in values(weights.load(base)).items() if n != "label/table"},
    )
    arrays, _ = checkpoints.read(checkpoints.newest(run / "checkpoints")[0])
    held = {name.partition("/")[2] for name in arrays if name.startswith("network/")}
    maps = ("attention/qkv", "attention/projection", "mlp/mlp_in", "mlp/mlp_out")
    parts = {f"block_0/{m}/lora_kernel_{end}" for m in maps for end in "ab"}
    assert held == parts | {"label/table"}
    merged = adapt.merge_lora(adapt.load_lora(below, run / "lora.safetensors"))
    sampled = keras.saving.load_model(run / "model.keras").sampling_network()
    same(values(merged), values(sampled))
    assert np.abs(values(sampled)["block_0/mlp/mlp_in/kernel"]).max() > 0


def test_a_run_goes_on_bit_for_bit(run, base, tmp_path):
    """Of one epoch, and then of two; the rate does not know the length."""
    data = json.loads((run / "config.json").read_text())["arguments"]["data"]
    once = [str(given) for given in arguments(base, data)]
    once[once.index("--epochs") + 1] = "1"
    assert command("train", *once, "--run", tmp_path / "pets") == 0
    assert command("train", "--resume", "--run", tmp_path / "pets", "--epochs", 2) == 0
    newest = [checkpoints.newest(f / "checkpoints")[1] for f in (tmp_path / "pets", run)]
    assert newest[0].keys() == newest[1].keys()
    for name, array in newest[0].items():
        np.testing.assert_array_equal(array, newest[1][name], err_msg=name)


def test_a_checkpoint_of_a_run_samples(run):
    found = models.load(str(run), checkpoint="best")
    kept = models.load(str(run), checkpoint="4")
    same(*(values(m.diffusion.sampling_network()) for m in (kept, models.load(str(run)))))
    assert found.diffusion.generate([0], steps=1).shape == (1, 8, 8, 1)


def test_models_wear_adapters(run, base, tmp_path, capsys):
    """Of the half and the quarter of a file is three quarters of it."""
    alone = adapt.add_lora(weights.load(base), 2, alpha=3)
    for weight in alone.trainable_weights:
        weight.assign(np.random.default_rng(2).standard_normal(weight.shape))
    file = tmp_path / "it.safetensors"
    adapt.save_lora(alone, file)
    out = tmp_path / "three.safetensors"
    given = ["--lora", f"{file}:0.5", "--lora", f"{file}:0.25"]
    assert command("convert", base, out, *given) == 0
    assert f"with the adapters 0.5 x {file} and 0.25 x {file}" in capsys.readouterr().out
    expected = adapt.merge_lora(adapt.load_lora(weights.load(base), file, 0.75))
    same(values(weights.load(out)), values(expected), 1e-5)
    assert command("info", file) == 0
    assert "adapters (LoRA) of rank 2 (alpha 3)\nlayers    4: blocks.0." in capsys.readouterr().out
    made = [tmp_path / f"{name}.npy" for name in "ab"]
    how = ["--labels", "1,2", "--steps", 1]
    assert command("sample", base, "--lora", f"{file}:0.75", *how, "--out", made[0]) == 0
    assert command("sample", out, *how, "--out", made[1]) == 0
    np.testing.assert_allclose(*map(np.load, made), atol=1e-4)


def test_the_network_below_wears_what_a_run_has_learned(run, base):
    """With the classes of the run, of which the network knew one of two, and their names."""
    worn, merged = models.load(str(base), lora=[(str(run), 1.0)]), models.load(str(run))
    assert worn.class_names == merged.class_names == ("pig", "owl")
    same(*(values(each.diffusion.sampling_network()) for each in (worn, merged)), tolerance=1e-5)


def test_mistakes_get_one_line(run, base, tmp_path, capsys):
    settings = json.loads((run / "config.json").read_text())["arguments"]
    new = ["train", "--data", settings["data"], "--run", tmp_path / "new"]
    for given, message in (
        (["--lora", 2], "--lora is for a trained network: give it by --from MODEL"),
        (["--lora-alpha", 2], "--lora-alpha is for adapters: give --lora RANK too"),
        (["--from", base, "--lora", 2, "--freeze", "time"], "leave out --freeze"),
        (["--from", base, "--lora", 2, "--averages", 0.1], "leave it out with --lora"),
        (["--from", base, "--lora", 2, "--lora-pattern", "x"], "--lora: pattern must be found in"),
    ):
        assert command(*new, *given) == 2
        assert message in capsys.readouterr().err
    assert command("info", run) == 0
    assert "adapters  of rank 2" in capsys.readouterr().out
