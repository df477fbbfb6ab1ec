"""What the bars of fit and generate say, and the summary."""

import re

import numpy as np
import pytest
from test_diffusion_fit import make

import keras_dit
from keras_dit import backend

IMAGES = np.zeros((8, 4, 4, 1), "float32")
LABELS = np.arange(8) % 3


def test_skipped_steps_are_in_the_bar_of_fit_where_there_are_any(capsys):
    diffusion = make()
    history = diffusion.fit(IMAGES, LABELS, batch_size=4, verbose=2).history
    assert history["skipped"] == [0]  # as a callback sees it too
    shown = capsys.readouterr().out
    assert "loss" in shown
    assert "skipped" not in shown
    broken = IMAGES.copy()
    broken[0] = np.nan
    diffusion.fit(broken, LABELS, batch_size=4, verbose=2)
    assert "skipped: 1" in capsys.readouterr().out


@pytest.mark.parametrize("verbose, words", [(True, "sampling: "), ("a grid", "a grid: ")])
def test_the_bar_of_generate_says_what_it_is_for(capsys, verbose, words):
    make().generate(labels=[0], steps=1, verbose=verbose)
    shown = capsys.readouterr().err
    assert words in shown
    assert ("compiling" in shown) == backend.compiles()


def test_the_summary_is_of_the_network_and_counts_the_average_apart():
    diffusion, lines = make(ema=0.5), []
    diffusion.train_on_batch(IMAGES, LABELS)
    diffusion.summary(line_length=79, print_fn=lines.append)
    shown = "\n".join(lines)
    assert re.match(r'Model: "dit(_\d+)?"\n', shown)
    assert "?" not in shown
    assert "(None, 4, 4, 1)" in shown  # of the last layer
    network = diffusion.network.count_params()
    assert f"Total params: {network:,} " in shown
    assert f"average of the weights: {network + 1:,}" in shown  # and the number of updates
    assert "optimizer: " in shown


def test_the_shape_of_what_a_condition_gives():
    assert make().network.label.output_shape == (None, 8)
    caption = keras_dit.conditions.Tokens(6, 4, hidden_size=8)
    assert caption.output_shape == (None, None, 8)
