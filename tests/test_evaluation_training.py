"""Scores while a network trains: they change nothing, and they choose the best checkpoint."""

import csv

import keras
import numpy as np
import pytest

import keras_dit
from keras_dit import checkpoints, datasets, evaluation
from keras_dit.cli import main
from keras_dit.evaluation import Pixels, Plan

DIGITS, LABELS = datasets.load_digits()
PLAN = Plan(num_images=20, steps=2, batch_size=20)
KEY = "frechet_distance_of_pixels"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path / "cache"))


def trained(callbacks, epochs):
    """A model after some epochs of two steps; its weights do not depend on what ran before."""
    keras.utils.set_random_seed(0)
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=10)
    diffusion = keras_dit.Diffusion(network, ema=0.5)
    diffusion.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    diffusion.fit(
        DIGITS[:64], LABELS[:64], batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks
    )
    return diffusion


def test_scores_are_logged_and_the_best_checkpoint_is_that_of_the_lowest(tmp_path):
    reference = evaluation.reference(datasets.load("digits", limit=200), Pixels())
    scoring = evaluation.Scoring(reference, every=2, plan=PLAN)
    assert scoring.monitor == KEY

    def checkpoint(name):
        return checkpoints.Checkpoint(tmp_path / name, every=1e9, monitor=KEY)

    scored = trained([scoring, checkpoint("scored")], epochs=5)
    plain = trained([checkpoints.Checkpoint(tmp_path / "plain", every=1e9)], epochs=5)
    for a, b in zip(scored.network.get_weights(), plain.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    scores = scored.history.history[KEY]
    assert len(scores) == 3  # of the second and fourth epoch, and the last one
    now = evaluation.evaluate(scored, reference, plan=PLAN)
    assert scores[-1] == pytest.approx(now[KEY], rel=1e-6)
    _, facts = checkpoints.read(tmp_path / "scored" / "best.safetensors")
    epoch = (2, 4, 5)[int(np.argmin(scores))]
    assert (facts["epoch"], facts["best"]) == (epoch, min(scores))


def test_scores_are_refused_before_they_cost_anything(tmp_path):
    with pytest.raises(ValueError, match=r"every must be 1 or more epochs\. Received: every=0"):
        evaluation.Scoring("digits", every=0)
    with pytest.raises(ValueError, match="image_size must be None or"):
        np.save(tmp_path / "larger.npy", np.zeros((4, 28, 28, 1), "uint8"))
        trained([evaluation.Scoring(tmp_path / "larger.npy")], epochs=1)
    unlabelled = evaluation.reference(datasets.load("digits", limit=50, labels=False), Pixels())
    losses = []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_: losses.append(1))
    scoring = evaluation.Scoring(unlabelled, plan=evaluation.Plan(20, labels="data"))
    with pytest.raises(ValueError, match="a reference that has labels"):
        trained([scoring, seen], epochs=1)
    assert not losses


def test_the_command_scores_on_the_way(tmp_path):
    network = ["--hidden-size", "8", "--depth", "1", "--num-heads", "2", "--patch-size", "4"]
    run = ["train", "--data", "digits", "--limit", "100", "--batch-size", "50", "--epochs", "3"]
    run += ["--run", str(tmp_path / "run"), "--evaluate-every", "2", *network]
    assert main(run) == 0
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row[KEY]) for row in rows] == [False, True, True]
    best = checkpoints.read(tmp_path / "run" / "checkpoints" / "best.safetensors")[1]
    assert best["best"] == min(float(row[KEY]) for row in rows[1:])


def test_latents_are_refused_before_the_training(tmp_path, capsys):
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).uniform(-1, 1, (40, 8, 8, 4)))
    run = ["train", "--data", str(tmp_path / "latents.npy"), "--run", str(tmp_path / "run")]
    run += ["--evaluate-every", "1", "--hidden-size", "8", "--depth", "1", "--num-heads", "2"]
    assert main(run) == 2
    assert "scores are of images: these are latents" in capsys.readouterr().err
