"""Laws of keras-dit autoencoder and encode, and of train, sample and info on latents."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_dit import backend, datasets
from keras_dit.cli import autoencoder, main, models, parser, resume
from keras_dit.codecs import Autoencoder, AutoencoderKL
from keras_dit.datasets import LatentFacts

TINY = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 2, "--batch-size", 16]


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """ae.keras, trained for an epoch; latents/ of 40 digits; run/, trained on them."""
    place = tmp_path_factory.mktemp("place")
    # Smaller than the command makes them, since it is compiled: it does not even shrink images.
    keras.utils.set_random_seed(0)
    network = AutoencoderKL(1, 2, (4,), 1, groups=2, quant_conv=False, mid_attention=False)
    Autoencoder(network).save(place / "new.keras")
    data = ["--data", "digits", "--limit", 200, "--batch-size", 32, "--epochs", 1]
    start = ["--from", place / "new.keras", "--out", place / "ae.keras"]
    assert command("autoencoder", *data, *start) == 0
    assert encode(place / "ae.keras", place / "latents") == 0
    how = ["--epochs", 2, "--run", place / "run", "--checkpoint-every", 0]
    assert command("train", "--data", place / "latents", *how, *TINY) == 0
    return place


def encode(made_by, out, *more):
    data = ["--data", "digits", "--limit", 40, "--flips", "--batch-size", 4]
    return command("encode", *data, "--autoencoder", made_by, "--out", out, *more)


def test_an_autoencoder_of_ones_own_is_shown_and_scaled(place):
    with Image.open(place / "ae.png") as image:
        assert image.width > image.height  # two rows: images and what came back
    new, trained = (Autoencoder.from_preset(place / f"{name}.keras") for name in ("new", "ae"))
    assert new.identity != trained.identity
    images, _ = datasets.load_digits()
    drawn = ops.convert_to_numpy(trained.encode(images, keras.random.SeedGenerator(0)))
    np.testing.assert_allclose(drawn.std((0, 1, 2)), 1.0, atol=0.15)


def test_the_options_reach_the_network():
    words = "autoencoder --data digits --out ae.keras --factor 2 --width 16 --blocks 1"
    arguments = parser().parse_args([*words.split(), "--latent-channels", "3"])
    network = backend.without_memory(lambda: autoencoder.new_network(arguments, (28, 28, 1)))
    assert (network.factor, network.latent_channels, network.in_channels) == (2, 3, 1)
    assert network.config["channels"] == (16, 32)
    assert network.config["layers_per_block"] == 1


def test_latents_train_a_model_that_makes_images(place, capsys, tmp_path):
    model = models.load(place / "run").diffusion
    codec = Autoencoder.from_preset(place / "ae.keras")
    assert model.network.image_shape == (8, 8, 2)
    assert model.codec.identity == codec.identity
    assert len(model.class_names) == 10
    assert (place / "run" / "samples" / "final.png").is_file()
    assert command("sample", place / "run", "--steps", 2, "--out", tmp_path / "made.npy") == 0
    made = np.load(tmp_path / "made.npy")
    assert made.shape == (80, 8, 8, 1)
    assert np.abs(made).max() <= 1
    capsys.readouterr()
    assert command("info", place / "run") == 0
    said = capsys.readouterr().out
    assert "images    8 x 8, 1 channel, from latents of 8 x 8, 2 channels" in said
    assert f"by the autoencoder {codec.identity}" in said
    assert command("info", place / "latents") == 0
    said = capsys.readouterr().out
    assert "images    40 of 40, 8 x 8, 1 channel, each mirrored too" in said
    assert codec.identity in said


def test_images_are_encoded_in_each_step(place, tmp_path, capsys):
    data = ["--data", "digits", "--limit", 40, "--autoencoder", place / "ae.keras"]
    run = ["--epochs", 1, "--run", tmp_path / "run", "--checkpoint-every", 0]
    assert command("train", *data, *run, *TINY) == 0
    assert "as latents of 8x8x2, made in each step" in capsys.readouterr().out
    model = models.load(tmp_path / "run").diffusion
    assert model.codec.identity == Autoencoder.from_preset(place / "ae.keras").identity
    assert command("sample", tmp_path / "run", "--steps", 2, "--out", tmp_path / "made.npy") == 0
    assert np.load(tmp_path / "made.npy").shape == (80, 8, 8, 1)


def test_a_run_on_latents_goes_on_and_needs_its_autoencoder_no_more(place):
    config = json.loads((place / "run" / "config.json").read_text())
    again = resume.model(config, place / "run").codec  # of the copy in its folder
    assert again.identity == models.load(place / "run").diffusion.codec.identity
    config["model"]["codec"]["config"]["scale"] = [0.5, 0.5]  # what it was begun with counts
    assert resume.model(config, place / "run").codec.scale == (0.5, 0.5)


KILLED = """
import sys, time
from keras_dit.cli import main
from keras_dit.datasets import writing
writing.SECONDS, append = 0.0, writing.LatentWriter.append
def slow(writer, posteriors):
    append(writer, posteriors)
    if writer.done >= 12:
        print("there", file=sys.stderr, flush=True)
        time.sleep(60)
writing.LatentWriter.append = slow
main(sys.argv[1:])
"""


def test_an_encoding_killed_with_9_goes_on_and_ends_with_the_same_bytes(place, tmp_path):
    data = ["encode", "--data", "digits", "--limit", "40", "--flips", "--batch-size", "4"]
    files = ["--autoencoder", str(place / "ae.keras"), "--out", str(tmp_path / "latents")]
    paths = [str(pathlib.Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *data, *files],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    ) as encoding:
        while b"there" not in encoding.stderr.readline():
            assert encoding.poll() is None
        encoding.send_signal(signal.SIGKILL)
    assert LatentFacts.read(tmp_path / "latents").done == 12
    assert command("train", "--data", tmp_path / "latents", "--run", tmp_path / "run", *TINY) == 2
    assert encode(place / "ae.keras", tmp_path / "latents") == 0
    assert contents(tmp_path / "latents") == contents(place / "latents")


def test_ctrl_c_says_how_to_go_on(place, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_dit.datasets.LatentWriter.append", interrupted)
    assert encode(place / "ae.keras", tmp_path / "latents") == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("encode --data digits --autoencoder gone.keras --out {t}/l", "gone.keras"),
        ("encode --data {p}/latents --autoencoder {p}/ae.keras --out {t}/l", "has to be images"),
        ("encode --data digits --autoencoder {p}/ae.keras --out {p}/run", "holds something else"),
        ("encode --data digits --autoencoder {p}/ae.keras --out {p}/latents", "begun with count"),
        ("encode --data digits --autoencoder {p}/run/model.keras --out {t}/l", "an autoencoder"),
        ("encode --data digits --autoencoder {t}/other.keras --out {t}/l", "of 8, and 3 channels"),
        ("autoencoder --data digits --out {t}/ae.pt", "--out must be a .keras file"),
        ("autoencoder --data digits --factor 16 --out {t}/ae.keras", "multiples of 16"),
        ("autoencoder --data digits --factor 2 --width 9 --out {t}/a.keras", "a multiple of 8"),
        ("train --data {p}/latents --autoencoder {t}/other.keras --run {t}/r", "is another one"),
        ("train --data {t}/moved --run {t}/r", "gone.keras any more: give --autoencoder"),
        ("train --data {p}/latents --image-size 4 --run {t}/r", r"None or (8, 8)"),
    ],
)
def test_a_mistake_is_answered_with_one_line(place, tmp_path, capsys, arguments, message):
    if "other.keras" in arguments:
        keras.utils.set_random_seed(1)
        network = AutoencoderKL(3, 2, (8, 8, 8, 8), 1, 8, mid_attention=False)
        Autoencoder(network).save(tmp_path / "other.keras")
    if "moved" in arguments:
        shutil.copytree(place / "latents", tmp_path / "moved")
        facts = json.loads((tmp_path / "moved" / "latents.json").read_text())
        facts["autoencoder"]["path"] = "gone.keras"
        (tmp_path / "moved" / "latents.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert command(*arguments.format(p=place, t=tmp_path).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
