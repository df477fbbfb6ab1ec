"""keras-dit evaluate, and the samples that it and others can read."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import keras_dit
from keras_dit import evaluation, images
from keras_dit.cli import main
from keras_dit.cli import sweep as sweeps

QUICK = ["--num-images", 40, "--steps", 2, "--batch-size", 20]


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    return main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of ten classes with random weights."""
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=10)
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.1, w.shape) for w in network.get_weights()])
    path = tmp_path_factory.mktemp("models") / "model.keras"
    keras_dit.Diffusion(network, ema=None).save(path)
    return path


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_model_is_scored_and_its_images_scored_again_are_the_same(model, tmp_path, capsys):
    kept = tmp_path / "kept.npz"
    to = ("--out", tmp_path / "a", "--keep", kept, "--bootstrap", 10)
    assert command("evaluate", model, "--reference", "digits", *QUICK, *to) == 0
    shown = capsys.readouterr().out
    assert "Frechet distance of pixels" in shown and "FID" not in shown.replace("no FID", "")
    of_model = report(tmp_path / "a")
    assert of_model["sampling"]["seeds"] == "0 to 39"
    assert of_model["sampling"]["labels"] == "balanced"
    assert of_model["sampling"]["solver"] == "DDIM(eta=0.0)"
    assert of_model["reference"]["source"] == "digits"
    assert of_model["features"]["name"] == "pixels"
    assert of_model["versions"]["keras_dit"]
    to = ("--out", tmp_path / "b")
    assert command("evaluate", "--images", kept, "--reference", "digits", *to) == 0
    of_images = report(tmp_path / "b")
    for name, score in of_model["scores"].items():
        assert of_images["scores"][name]["value"] == pytest.approx(score["value"], rel=0.02)
    name = "frechet_distance_of_pixels"
    same = of_images["scores"][name]["value"], of_model["scores"][name]["value"]
    assert same[0] == pytest.approx(same[1], rel=1e-9)


def test_dtypes_are_swept_and_told(model, tmp_path):
    settings = ("--reference", "digits", "--num-images", 20, "--steps", 1, "--out", tmp_path / "a")
    assert command("evaluate", model, *settings, "--sweep", "dtype=bfloat16,int8") == 0
    found = [report(tmp_path / "a" / f"dtype={name}") for name in ("bfloat16", "int8")]
    assert [each["dtype"] for each in found] == ["bfloat16", "int8, float32"]
    assert found[0]["model"] != found[1]["model"]
    values = [each["scores"]["frechet_distance_of_pixels"]["value"] for each in found]
    assert values[0] != values[1]
    np.testing.assert_allclose(*values, rtol=0.05)


def test_every_combination_of_a_sweep_is_a_row(model, tmp_path, capsys):
    sweep = ("--sweep", "guidance=1,2.5", "--sweep", "steps=2,3")
    settings = ("--reference", "digits", "--num-images", 20, "--out", tmp_path / "a")
    assert command("evaluate", model, *settings, *sweep) == 0
    with (tmp_path / "a" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [(float(row["guidance"]), int(row["steps"])) for row in rows]
    assert found == [(1.0, 2), (1.0, 3), (2.5, 2), (2.5, 3)]
    one = report(tmp_path / "a" / "guidance=2.5,steps=2")
    assert one["sampling"]["guidance"].startswith("ClassifierFree(scale=2.5,")
    values = [float(row["frechet_distance_of_pixels"]) for row in rows]
    assert values[2] == one["scores"]["frechet_distance_of_pixels"]["value"]
    assert len(set(values)) == 4
    with Image.open(tmp_path / "a" / "sweep.png") as plot:
        assert plot.format == "PNG"
    assert sweeps.cells([]) == [{}]


SLOW = """
import sys, time
from keras_dit.cli import main
from keras_dit.evaluation import production, features
production.SECONDS = 0.0
call = features.Pixels.__call__
def slow(self, images):
    time.sleep(0.3)
    return call(self, images)
if "slow" in sys.argv:
    features.Pixels.__call__ = slow
sys.exit(main(sys.argv[2:]))
"""


def test_a_run_that_was_killed_by_the_system_goes_on(model, tmp_path):
    """kill -9 in the middle; the same command then ends at the report of one that was not."""
    run = [sys.executable, "-c", SLOW]
    what = ["evaluate", model, "--reference", "digits", "--num-images", "160", "--steps", "2"]
    what += ["--batch-size", "20", "--out"]
    assert command(*what, tmp_path / "whole") == 0
    killed = subprocess.Popen(
        [*run, "slow", *map(str, what), tmp_path / "killed"], stderr=subprocess.DEVNULL
    )
    state = tmp_path / "killed" / "state.npz"
    end = time.monotonic() + 120
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "report.json").exists()
    with np.load(state) as stored:
        assert 0 < int(stored["numbers"][3]) < 160
    assert command(*what, tmp_path / "killed") == 0
    assert report(tmp_path / "killed") == report(tmp_path / "whole")


def test_samples_can_be_written_as_those_of_adm(model, tmp_path):
    out = tmp_path / "samples.npz"
    options = ("--labels", "3,1,4", "--steps", 1, "--guidance", 1)
    assert command("sample", model, *options, "--out", out) == 0
    with np.load(out) as found:
        batch, labels = found["arr_0"], found["arr_1"]
    assert (batch.shape, batch.dtype, labels.tolist()) == ((3, 8, 8, 1), np.uint8, [3, 1, 4])
    assert command("sample", model, *options, "--out", tmp_path / "a.npy") == 0
    np.testing.assert_array_equal(images.to_uint8(np.load(tmp_path / "a.npy")), batch)
    known = evaluation.reference(out, evaluation.Pixels()).conditions
    assert known["label"].tolist() == [3, 1, 4]


def test_a_model_of_latents_is_scored_by_the_images_that_its_autoencoder_makes(tmp_path):
    network = keras_dit.codecs.AutoencoderKL(1, 2, (4, 8), 1, groups=2, mid_attention=False)
    codec = keras_dit.codecs.Autoencoder(network)
    latents = keras_dit.DiTModel(codec.sample_shape((8, 8, 1)), 2, 8, 1, 2, num_classes=10)
    path, kept, out = tmp_path / "latent.keras", tmp_path / "kept.npz", tmp_path / "samples.npz"
    keras_dit.Diffusion(latents, codec=codec, ema=None).save(path)
    to = ("--out", tmp_path / "a", "--keep", kept)
    assert command("evaluate", path, "--reference", "digits", *QUICK, *to) == 0
    assert report(tmp_path / "a")["reference"]["size"] == "8x8x1"
    options = ("--labels", "0,1,2", "--seed", "0,1,2", "--steps", 2, "--guidance", 1)
    assert command("sample", path, *options, "--out", out) == 0
    with np.load(kept) as whole, np.load(out) as few:
        assert (whole["arr_0"].shape, few["arr_0"].shape) == ((40, 8, 8, 1), (3, 8, 8, 1))
        assert np.abs(whole["arr_0"][:3].astype(int) - few["arr_0"]).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--reference", "digits"], "give a MODEL, or a set of images by --images"),
        (["MODEL", "--images", "a.npz", "--reference", "digits"], "and not both"),
        (["MODEL", "--reference", "OTHER"], "must be None or"),
        (["MODEL", "--reference", "digts"], "one of digits"),
        (["MODEL", "--reference", "digits", "--features", "pixls"], "one of pixels"),
        (["MODEL", "--reference", "digits", "--features", "a.pth"], "github.com/toshas"),
        (["MODEL", "--reference", "digits", "--labels", "blanced"], "one of balanced"),
        (["MODEL", "--reference", "digits", "--sweep", "guidnce=1"], "one of guidance"),
        (["MODEL", "--reference", "digits", "--sweep", "steps=0"], "an integer of 1 or more"),
        (["MODEL", "--reference", "digits", "--keep", "a.tar"], "a folder or an .npz file"),
        (["--images", "digits", "--reference", "digits", "--keep", "a"], "are for a MODEL"),
    ],
)
def test_a_mistake_gets_one_line(model, tmp_path, capsys, arguments, says):
    np.save(tmp_path / "other.npy", np.zeros((4, 28, 28, 1), "uint8"))
    named = {"MODEL": model, "OTHER": tmp_path / "other.npy"}
    words = [str(named.get(word, word)) for word in arguments]
    try:
        code = command("evaluate", *words, "--num-images", 4, "--out", tmp_path / "out")
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err.splitlines()[-1]
    assert (code, error.startswith("keras-dit evaluate: error: ")) == (2, True)
    assert says in error
