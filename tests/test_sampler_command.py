"""Laws of the command keras-dit sample."""

import re

import numpy as np
import pytest
from PIL import Image

import keras_dit
from keras_dit import cli, schedules, solvers


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = keras_dit.DiTModel((4, 4, 1), 2, 16, 2, 2, num_classes=3)
    rng = np.random.default_rng(0)
    for weight in network.trainable_variables:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    diffusion = keras_dit.Diffusion(network, prediction=keras_dit.predictions.V())
    path = tmp_path_factory.mktemp("model") / "model.keras"
    diffusion.save(path)
    return path


def command(model, out, *arguments):
    try:
        return cli.main(["sample", str(model), "--out", str(out), "--num-images", "3", *arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


def test_settings_of_guidance_grid_and_solver_reach_the_pictures(model, tmp_path):
    pictures = {}
    for name, arguments in {
        "plain": [],
        "solver": ["--solver", "unipc-3"],
        "grid": ["--grid", "karras"],
        "interval": ["--guidance-interval", "0.2", "0.6"],
        "rescale": ["--guidance-rescale", "0.7"],
        "negative": ["--negative", "1"],
        "none": ["--guidance", "1"],
        "seed": ["--seed", "1"],
        "cache": ["--cache", "100"],
        "cache-every": ["--cache-every", "2"],
    }.items():
        out = tmp_path / f"{name}.png"
        assert command(model, out, "--steps", "4", *arguments) == 0
        pictures[name] = np.asarray(Image.open(out)).tobytes()
    assert len(set(pictures.values())) == len(pictures)


def test_a_trajectory_is_written_as_an_animation(model, tmp_path):
    gif = tmp_path / "out.gif"
    assert command(model, tmp_path / "out.png", "--steps", "6", "--trajectory", str(gif)) == 0
    with Image.open(gif) as animation:
        assert animation.n_frames == 7  # x_t before each step, and the pictures


def test_the_names_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    # The help is broken into lines, at hyphens too.
    text = re.sub(r"-\n\s+", "-", capsys.readouterr().out)
    assert all(name in text for name in [*solvers.NAMED, *schedules.GRIDS])


def test_every_solver_has_a_name():
    """Adding a solver is a class and a row; the command and the errors follow."""
    classes = {
        value
        for value in vars(keras_dit.solvers).values()
        if isinstance(value, type) and issubclass(value, keras_dit.solvers.Solver)
    }
    named = {type(solver) for solver in solvers.NAMED.values()}
    assert classes - {keras_dit.solvers.Solver} == named


@pytest.mark.parametrize(
    "arguments",
    [
        ["--negative", "3"],
        ["--guidance", "nan"],
        ["--guidance-rescale", "2"],
        ["--steps", "2000"],
        ["--cache", "-1"],
        ["--cache", "0.1", "--cache-every", "2"],
        ["--grid", "leading", "--steps", "1001"],
    ],
)
def test_a_mistake_is_one_line_and_code_2(model, tmp_path, capsys, arguments):
    assert command(model, tmp_path / "out.png", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("keras-dit sample: error: ")
