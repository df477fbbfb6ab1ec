"""Laws of keras-dit train: what it is told, what it chooses, how it goes on."""

import csv
import importlib.util
import json
import math
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_dit
from keras_dit.backend import BACKEND
from keras_dit.cli import main, models, plan, progress, recipe

TINY = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]
NAMES = ("blue", "grey", "red")


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


def log(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of four images."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for name, colour in zip(NAMES, ((0, 0, 255), (128, 128, 128), (255, 0, 0))):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (14, 10 + i), colour).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photo_run(photos, tmp_path_factory):
    """A run of two epochs of three steps on them."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    data = ["--data", photos, "--image-size", "8x12", "--validation", 0.25, "--batch-size", 3]
    how = ["--epochs", 2, "--checkpoint-every", 0, "--clip-norm", 0.5, "--weight-decay", 0.1]
    assert command("train", *data, *how, "--run", folder, *TINY) == 0
    return folder


# What it is told


def test_the_options_reach_the_data_and_the_optimizer(photo_run):
    model = models.load(photo_run).diffusion
    assert model.network.image_shape == (8, 12, 3)
    assert model.optimizer.global_clipnorm == 0.5
    assert model.optimizer.weight_decay == 0.1
    assert all(float(row["val_loss"]) > 0 for row in log(photo_run))


def test_the_log_tells_learning_rate_and_speed(photo_run):
    rows = log(photo_run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[0] > rates[1] == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_plotted(photo_run):
    with Image.open(photo_run / "loss.png") as plot:
        assert plot.size[0] > 300


@pytest.mark.parametrize("warmup", [None, 0, 7])
@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.0), ("constant", 3.0)])
def test_the_rate_rises_to_its_peak_and_ends_where_it_is_said(schedule, end, warmup):
    rate = recipe.learning_rate(3.0, 100, warmup, schedule)
    values = [float(ops.convert_to_numpy(rate(step))) for step in range(101)]
    rise = 5 if warmup is None else warmup
    np.testing.assert_allclose(values[:rise], [3.0 * k / max(rise, 1) for k in range(rise)])
    assert values[rise] == pytest.approx(3.0)
    assert values[100] == pytest.approx(end, abs=1e-6)


def test_gradients_are_clipped_to_a_norm_together():
    variables = [keras.Variable(np.zeros(2, "float32")) for _ in range(2)]
    optimizer = recipe.optimizer(1.0, "sgd", clip_norm=0.5)
    optimizer.build(variables)
    gradients = [ops.convert_to_tensor(np.array(g, "float32")) for g in ([3, 0], [0, 4])]
    optimizer.apply(gradients, variables)
    moved = np.concatenate([ops.convert_to_numpy(v) for v in variables])
    np.testing.assert_allclose(moved, [-0.3, 0, 0, -0.4], rtol=1e-5)


@pytest.mark.parametrize("name", recipe.OPTIMIZERS)
def test_every_optimizer_trains(name, tmp_path):
    network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=None)
    model = keras_dit.Diffusion(network)
    rate = recipe.learning_rate(1e-3, 10, warmup=0)
    model.compile(recipe.optimizer(rate, name, weight_decay=0.01, clip_norm=1.0))
    before = network.get_weights()
    model.train_on_batch(np.ones((2, 4, 4, 1), "float32"))
    assert any((a != b).any() for a, b in zip(before, network.get_weights()))


def test_no_labels_is_a_network_without_classes(photos, tmp_path):
    data = ["--data", photos, "--image-size", 8, "--no-labels", "--channels", 1, "--limit", 6]
    how = ["--epochs", 1, "--batch-size", 6]
    assert command("train", *data, *how, "--run", tmp_path / "run", *TINY) == 0
    network = models.load(tmp_path / "run").diffusion.network
    assert network.num_classes is None
    assert network.image_shape == (8, 8, 1)


# What it chooses


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((8, 8, 1), 2), ((28, 28, 1), 2), ((64, 64, 3), 4), ((64, 96, 3), 8), ((50, 50, 3), 5)],
)
def test_the_patch_leaves_a_few_hundred_tokens(shape, patch):
    assert plan.patch_size(shape) == patch


class Data:
    """Six hundred images of 64 pixels, which nobody reads."""

    input_shape, num_classes, images, batch_size = (64, 64, 3), 3, range(600), 128
    conditions = {"label": range(600)}  # noqa: RUF012

    def __len__(self):
        return len(self.images) // self.batch_size


def settings(**given):
    parser = keras_dit.cli.parser()
    values = vars(parser.parse_args(["train", "--run", "RUN"]))
    return type("Settings", (), {**values, "any_memory": False, **given})()


def chosen(monkeypatch, gigabytes, **given):
    monkeypatch.setattr(keras_dit.backend, "free_memory", lambda: gigabytes * 1e9)
    asked, data = settings(**given), Data()
    plan.fill(asked, data)
    assert data.batch_size == asked.batch_size
    return asked


def test_less_memory_is_a_smaller_batch_and_then_remat(monkeypatch):
    large = chosen(monkeypatch, 64, preset="dit_s_4")
    assert (large.batch_size, large.remat) == (128, False)
    laptop = chosen(monkeypatch, 8, preset="dit_s_4")
    assert laptop.batch_size < 128
    small = chosen(monkeypatch, 4, preset="dit_s_4")
    assert small.remat
    assert chosen(monkeypatch, 64, preset="dit_s_4", remat=True).remat


def test_what_was_said_is_kept_and_what_cannot_fit_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"about \d\d\.\d GB.*--remat, --batch-size 32.*smaller"):
        chosen(monkeypatch, 16, preset="dit_s_4", batch_size=128, remat=False)
    with pytest.raises(ValueError, match="GB are free"):
        chosen(monkeypatch, 1, preset="dit_xl_2")
    assert chosen(monkeypatch, 1, preset="dit_xl_2", any_memory=True).batch_size == 128


def test_few_images_are_seen_often_and_many_seldom(monkeypatch):
    few = chosen(monkeypatch, 64)
    assert few.epochs == 500
    Data.images, before = range(60_000), Data.images
    try:
        assert chosen(monkeypatch, 64).epochs == 5
    finally:
        Data.images = before


def test_the_choices_are_said_and_kept(photos, tmp_path, capsys):
    data = ["--data", photos, "--image-size", 8]
    size = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--steps", 1]
    assert command("train", *data, *size, "--run", tmp_path / "run") == 0
    shown = capsys.readouterr()
    assert "12 images of 8x8, colour, 3 classes" in shown.out
    for word in ("network: 1 block", "batch: ", "GB", "length: 1 epoch of 6 steps"):
        assert word in shown.out
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["arguments"]
    assert (kept["batch_size"], kept["epochs"], kept["patch_size"]) == (2, 1, 2)
    assert kept["draft"] is True  # which 0.1.0 did not write down, and did not do
    # The bar says what the first step is, then what it is like to wait for the others.
    bar = shown.err.split("\r")
    assert any(line.startswith(progress.FIRST) for line in bar)
    (last,) = [line for line in bar if "training: 100%" in line][-1:]
    assert "images/s" in last
    assert "skipped" not in shown.err


# How it goes on


def test_a_run_goes_on_with_changes_that_are_named(photo_run, capsys):
    before = log(photo_run)
    again = ["--resume", "--run", photo_run, "--epochs", 3, "--learning-rate", 0.02]
    again += ["--batch-size", 4]
    assert command("train", *again) == 0
    shown = capsys.readouterr()
    assert "--epochs 3, was 2" in shown.out
    assert "--batch-size 4, was 3" in shown.out
    assert "--learning-rate 0.02, was not set" in shown.out
    assert "would have been" in shown.out
    rows = log(photo_run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[:2] == before
    assert command("train", "--resume", "--run", photo_run) == 0  # which are those of the run now
    assert len(log(photo_run)) == 3
    assert "would have been" not in capsys.readouterr().out


def test_a_run_of_one_device_goes_on_with_two(photo_run, tmp_path):
    """In a process of its own: devices are there before a backend computes."""
    folder = shutil.copytree(photo_run, tmp_path / "run")
    options = ["--run", folder, "--epochs", 5, "--batch-size", 2, "--devices", 2]
    program = [sys.executable, "-m", "keras_dit", "train", "--resume", *options]
    done = subprocess.run(list(map(str, program)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(log(folder)) == 5
    assert done.stdout.count("model and images are in") == 1


def test_a_change_that_makes_another_run_is_refused(photo_run, capsys):
    capsys.readouterr()
    assert command("train", "--resume", "--run", photo_run, "--patch-size", 2) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Leave out --patch-size" in line
    assert "--learning-rate" in line


def test_a_run_starts_from_the_weights_of_another(photo_run, photos, tmp_path, capsys):
    data = ["--data", photos, "--image-size", "8x12", "--batch-size", 12]
    how = ["--epochs", 1, "--learning-rate", 1e-9, "--from", photo_run]
    assert command("train", *data, *how, "--run", tmp_path / "run") == 0
    assert f"start: the average of the weights of {photo_run}" in capsys.readouterr().out
    source, new = models.load(photo_run).diffusion, models.load(tmp_path / "run").diffusion
    for values in (new.average.values, new.network.weights):
        for value, start in zip(values, source.average.values, strict=True):
            pair = map(ops.convert_to_numpy, (value, start))
            np.testing.assert_allclose(*pair, atol=1e-6)
    assert new.schedule == source.schedule


@pytest.mark.parametrize("kind", ["model.keras", "bare.safetensors", "folder"])
def test_a_run_starts_from_a_file_of_any_kind(photos, tmp_path, kind):
    """One that says nothing but its tensors is told its heads."""
    model = keras_dit.Diffusion(keras_dit.DiTModel((8, 8, 3), 4, 8, 1, 2, num_classes=3), ema=0.5)
    for weight in model.network.trainable_weights:
        weight.assign(0.1 * np.random.default_rng(0).standard_normal(weight.shape))
    source, heads = tmp_path / kind, []
    if kind == "model.keras":
        model.save(source)
    elif kind == "folder":
        with pytest.warns(UserWarning, match="DiTPipeline"):
            keras_dit.weights.export(model.network, source, "diffusers")
    else:
        tensors = keras_dit.weights.layout.save(model.network)
        safetensors = pytest.importorskip("safetensors.numpy")
        plain = {n: np.ascontiguousarray(t.read()) for n, t in tensors.items()}
        safetensors.save_file(plain, source)
        heads = ["--num-heads", 2]
    data = ["--data", photos, "--image-size", 8, "--batch-size", 12, "--epochs", 1]
    how = ["--learning-rate", 1e-9, "--method", "ddpm", "--from", source, *heads]
    assert command("train", *data, *how, "--run", tmp_path / "run") == 0
    new = models.load(tmp_path / "run").diffusion
    for weight, start in zip(new.network.weights, model.network.weights, strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (weight, start)), atol=1e-6)


def test_batches_are_accumulated_and_the_rate_goes_by_batches(photos, tmp_path, capsys):
    data = ["--data", photos, "--image-size", 8, *TINY, "--batch-size", 3, "--epochs", 2]
    how = ["--accumulate", 4, "--warmup", 0, "--learning-rate", 0.1]
    assert command("train", *data, *how, "--run", tmp_path / "run") == 0
    model = models.load(tmp_path / "run").diffusion
    assert int(ops.convert_to_numpy(model.average.updates)) == 2
    rates = [float(row["learning_rate"]) for row in log(tmp_path / "run")]
    assert rates == pytest.approx([0.05, 0.0], abs=1e-6)  # the cosine in the middle, and its end
    capsys.readouterr()
    assert command("train", *data, "--accumulate", 9, "--run", tmp_path / "none") == 2
    assert "the run has 8 batches, of which none" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_tensorboard_has_the_numbers_of_the_log(photos, tmp_path, capsys, monkeypatch):
    data = ["--data", photos, "--image-size", 8, *TINY, "--batch-size", 12, "--epochs", 2]
    if importlib.util.find_spec("tensorboard"):
        assert command("train", *data, "--tensorboard", "--run", tmp_path / "run") == 0
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
        read.Reload()
        seen = [event.tensor_proto.float_val[0] for event in read.Tensors("loss")]
        assert seen == pytest.approx([float(row["loss"]) for row in log(tmp_path / "run")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    capsys.readouterr()
    assert command("train", *data, "--tensorboard", "--run", tmp_path / "none") == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--depth", 2], "leave out --depth, or --from. --patch-size and --image-size may be"),
        (["--image-size", 10], "patches of 4 do not cut what the network would see, 10 x 10"),
        (["--image-size", 10], "give another --image-size, or --patch-size 2"),
        (
            ["--freeze", "blok"],
            "--freeze: its pattern must match names of some weights, of",
        ),
    ],
)
def test_weights_for_something_else_are_refused(photo_run, photos, tmp_path, capsys, options, says):
    capsys.readouterr()
    start = ["--data", photos, "--image-size", "8x12", "--from", photo_run, *options]
    assert command("train", *start, "--run", tmp_path / "new" / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not list(tmp_path.iterdir())  # a refused start leaves no folder


# What samples of it


def test_the_last_images_are_those_of_sample_and_classes_go_by_name(photo_run, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert command("sample", photo_run, "--out", out) == 0
    assert out.read_bytes() == (photo_run / "samples" / "final.png").read_bytes()
    shown = capsys.readouterr().out
    assert "ddim, 50 steps, guidance 2, seed 0" in shown  # what another program would repeat
    assert "the average of the weights" in shown
    few = ["--steps", 2, "--out"]
    assert command("sample", photo_run, "--labels", "red,blue", *few, tmp_path / "a.npy") == 0
    assert command("sample", photo_run, "--labels", "2,0", *few, tmp_path / "b.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    capsys.readouterr()
    assert command("sample", photo_run, "--labels", "rad", *few, tmp_path / "c.npy") == 2
    assert "or one of red, " in capsys.readouterr().err


def test_the_average_the_weights_or_a_checkpoint_are_sampled(photo_run, tmp_path, capsys):
    numbers = {}
    steps = sorted(int(p.stem[5:]) for p in (photo_run / "checkpoints").glob("step_*"))
    choices = [[], ["--raw"], ["--checkpoint", steps[0]], ["--checkpoint", "best"]]
    for place, choice in enumerate(choices):
        out = tmp_path / f"{place}.npy"
        assert (
            command("sample", photo_run, "--steps", 2, "--num-images", 2, *choice, "--out", out)
            == 0
        )
        numbers[place] = np.load(out)
    assert np.isfinite(np.stack(list(numbers.values()))).all()
    assert (numbers[0] != numbers[1]).any()
    assert (numbers[0] != numbers[2]).any()
    shown = capsys.readouterr().out
    assert "of the raw weights" in shown
    assert f"of the checkpoint step_{steps[0]:08d}.safetensors" in shown
    assert command("sample", photo_run, "--checkpoint", 999, "--out", tmp_path / "x.png") == 2
    assert "there are: " in capsys.readouterr().err


def test_one_file_an_image_and_a_seed_each(photo_run, tmp_path):
    few = ["--steps", 2, "--labels", "red,grey", "--out"]
    assert command("sample", photo_run, "--seed", "5,9", *few, tmp_path / "both.npy") == 0
    both = np.load(tmp_path / "both.npy")
    assert command("sample", photo_run, "--seed", "9", *few, tmp_path / "nine.npy") == 0
    assert command("sample", photo_run, "--seed", "5,9", *few, f"{tmp_path}/new/") == 0
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["00000_red.png", "00001_grey.png"]
    with Image.open(tmp_path / "new" / "00001_grey.png") as image:
        seen = np.asarray(image)
    np.testing.assert_array_equal(seen, keras_dit.images.to_uint8(np.clip(both[1], -1, 1)))
    assert math.isclose(np.abs(both[0] - np.load(tmp_path / "nine.npy")[0]).max(), 0) is False


def test_the_names_of_the_classes_are_kept_by_an_export(photo_run, tmp_path, capsys):
    assert models.load(photo_run).diffusion.class_names == NAMES
    assert command("convert", photo_run / "model.keras", tmp_path / "y.pt") == 0
    assert keras_dit.weights.open_source(tmp_path / "y.pt").class_names == NAMES
    assert command("convert", photo_run, tmp_path / "x.pt") == 0
    assert "the average of the weights" in capsys.readouterr().out
    assert command("info", tmp_path / "x.pt") == 0
    assert "3: blue, grey, red" in capsys.readouterr().out
    assert command("info", photo_run) == 0
    shown = capsys.readouterr().out
    assert "3: blue, grey, red" in shown
    assert "epoch" in shown


@pytest.mark.skipif(BACKEND == "torch", reason="whose processes torchrun starts")
def test_one_of_several_processes_that_knows_not_which_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    assert command("train", "--data", "digits", "--run", tmp_path / "run") == 2
    says = {
        "jax": "set KERAS_DISTRIBUTION_JOB_ADDRESSES and KERAS_DISTRIBUTION_PROCESS_ID too",
        "tensorflow": 'several processes: say by its "task" which this is',
    }
    assert says[BACKEND] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
