"""Laws of the command keras-dit: what it writes and what a person sees of it."""

import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import keras_dit
from keras_dit import images
from keras_dit.cli import main, models

TINY = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    return main([str(argument) for argument in arguments])


def screen(text):
    """The lines that stay on a terminal: what follows the last carriage return of each."""
    return [line.rpartition("\r")[2] for line in text.split("\n") if line.strip()]


def read_png(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """The folder of a run of two epochs of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    data = ["--data", "digits", "--batch-size", 600, "--epochs", 2, "--sample-every", 1]
    assert command("train", *data, "--run", folder, *TINY) == 0
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    """A .keras file of a network without classes."""
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=None)
    path = tmp_path_factory.mktemp("models") / "unconditional.keras"
    keras_dit.Diffusion(network, keras_dit.schedules.LinearBeta(steps=100)).save(path)
    return path


def sampled(model, path, *options):
    """The numbers of a sampling run of two steps."""
    assert command("sample", model, "--steps", 2, "--out", path, *options) == 0
    return np.load(path)


def test_images_of_another_size_than_that_of_the_training(digits_run, tmp_path, capsys):
    assert sampled(digits_run, tmp_path / "a.npy", "--image-size", "12x16").shape[1:] == (12, 16, 1)
    same = sampled(digits_run, tmp_path / "b.npy", "--image-size", 8)
    np.testing.assert_array_equal(same, sampled(digits_run, tmp_path / "c.npy"))
    assert command("sample", digits_run, "--image-size", 10) == 2
    assert "patch" in capsys.readouterr().err


def test_a_run_folder_tells_the_whole_run(digits_run):
    config = json.loads((digits_run / "config.json").read_text())
    assert config["keras_dit"] == keras_dit.__version__
    assert config["backend"] == keras_dit.backend.BACKEND
    assert config["arguments"]["epochs"] == 2
    assert config["arguments"]["hidden_size"] == 8
    again = keras_dit.Diffusion.from_config(config["model"])
    model = models.load(digits_run).diffusion
    assert again.get_config() == model.get_config()
    assert int(model.optimizer.iterations) == 4
    with (digits_run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]  # as the names of the samples count
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    pictures = sorted(path.name for path in (digits_run / "samples").iterdir())
    assert pictures == ["epoch_00001.png", "epoch_00002.png", "final.png"]
    assert (digits_run / "samples" / "final.png").read_bytes() == (
        digits_run / "samples" / "epoch_00002.png"
    ).read_bytes()


def test_a_run_folder_and_its_file_give_the_same_pictures(digits_run, tmp_path):
    folder = sampled(digits_run, tmp_path / "a.npy", "--seed", 3, "--num-images", 5)
    file = sampled(digits_run / "model.keras", tmp_path / "b.npy", "--seed", 3, "--num-images", 5)
    other = sampled(digits_run, tmp_path / "c.npy", "--seed", 4, "--num-images", 5)
    assert folder.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(folder, file)
    assert np.abs(folder - other).max() > 0.1


def test_the_grid_has_a_column_for_each_class(digits_run, tmp_path):
    in_turn = ",".join(str(i % 10) for i in range(80))
    numbers = sampled(digits_run, tmp_path / "a.npy", "--labels", in_turn)
    np.testing.assert_array_equal(sampled(digits_run, tmp_path / "b.npy"), numbers)
    assert command("sample", digits_run, "--steps", 2, "--out", tmp_path / "a.png") == 0
    names = [str(i) for i in range(10)]
    expected = images.grid(numbers, columns=10, names=names)[..., 0]
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("solver", ["ddim-eta1", "ddpm", "euler", "heun"])
def test_every_solver_has_a_name(digits_run, tmp_path, solver):
    options = ("--num-images", 2, "--guidance", 1)
    numbers = sampled(digits_run, tmp_path / "a.npy", "--solver", solver, *options)
    assert np.isfinite(numbers).all()


def test_a_network_without_classes_is_sampled_without_labels(unconditional, tmp_path, capsys):
    assert sampled(unconditional, tmp_path / "new" / "a.npy").shape == (64, 8, 8, 1)
    capsys.readouterr()
    assert command("sample", unconditional, "--labels", "0,1", "--out", tmp_path / "b.npy") == 2
    assert "no classes" in capsys.readouterr().err


def test_what_cannot_be_seen_is_written_as_numbers(tmp_path, capsys):
    network = keras_dit.DiTModel((8, 8, 4), 4, 8, 1, 2, num_classes=3)
    model = keras_dit.Diffusion(network, codec=keras_dit.codecs.Latents())
    model.save(tmp_path / "latent.keras")
    arguments = ("--steps", 1, "--num-images", 2, "--out", tmp_path / "a.png")
    assert command("sample", tmp_path / "latent.keras", *arguments) == 0
    assert np.load(tmp_path / "a.npy").shape == (2, 8, 8, 4)
    assert "a.npy" in capsys.readouterr().out


def test_a_folder_of_pictures_is_trained_on_in_bfloat16_with_remat(tmp_path):
    for name, colour in (("blue", (0, 0, 255)), ("grey", (128, 128, 128)), ("red", (255, 0, 0))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (12 + i, 10), colour).save(tmp_path / "photos" / name / f"{i}.png")
    data = ["--data", tmp_path / "photos", "--image-size", 8, "--batch-size", 3, "--flip"]
    how = ["--dtype", "mixed_bfloat16", "--remat", "--method", "ddpm", "--steps", 2]
    assert command("train", *data, *how, "--run", tmp_path / "run", *TINY) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["class_names"] == ["blue", "grey", "red"]
    network = models.load(tmp_path / "run").diffusion.network
    assert network.image_shape == (8, 8, 3)
    assert network.num_classes == 3
    assert network.compute_dtype == "bfloat16"
    shown = read_png(tmp_path / "run" / "samples" / "final.png")
    blank = np.zeros((24, 8, 8, 3), "uint8")  # eight rows of three columns
    assert shown.shape == images.grid(blank, columns=3, names=["blue", "grey", "red"]).shape


def test_the_demo_writes_its_files_and_a_table(tmp_path, capsys):
    assert command("demo", "--quick", "--out", tmp_path / "demo") == 0
    shown = capsys.readouterr()
    files = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert files == ["denoising.gif", "digits.keras", "digits.png"]
    blank = np.zeros((80, 8, 8, 1), "uint8")
    expected = images.grid(blank, columns=10, names=list("0123456789")).shape[:2]
    assert read_png(tmp_path / "demo" / "digits.png").shape == expected
    with Image.open(tmp_path / "demo" / "denoising.gif") as animation:
        assert animation.n_frames > 2
    for row in ("label agreement", "Frechet distance to held-back", "Frechet distance to all"):
        assert sum(line.startswith(row) for line in shown.out.splitlines()) == 1
        assert sum(line.startswith(row) and line.endswith("er") for line in shown.out.splitlines())
    assert "images/s" in shown.out
    # A progress bar for each of training, the grid and the score, one line each, told apart.
    bars = screen(shown.err)
    assert [bar.partition(":")[0] for bar in bars] == [
        "training",
        "sampling a grid",
        "sampling to score",
    ]
    assert all("100%" in bar for bar in bars)
    assert shown.out.index("a grid of digits") < shown.out.index("to score")
    folder = tmp_path / "demo"
    assert f"keras-dit sample {folder}" in shown.out  # what to do next, and it can be done
    assert command("sample", folder, "--steps", 1, "--out", tmp_path / "a.png") == 0


def run_module(*arguments, **environment):
    """`python -m keras_dit` in a process of its own."""
    silent = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", "keras_dit", *arguments],
        capture_output=True,
        text=True,
        env={**silent, "KERAS_BACKEND": keras_dit.backend.BACKEND, **environment},
    )


def test_a_new_process_says_nothing_but_what_was_asked():
    done = run_module("--version")
    assert (done.returncode, done.stderr) == (0, "")
    expected = f"keras-dit {keras_dit.__version__}, backend {keras_dit.backend.BACKEND}\n"
    assert done.stdout == expected


def test_a_backend_that_is_none_is_refused_in_one_line():
    done = run_module("info", KERAS_BACKEND="numpy")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "jax, torch or tensorflow" in done.stderr
