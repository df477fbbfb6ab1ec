"""What the bars of fit and generate say."""

import numpy as np
import pytest
from test_diffusion_fit import make

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
