"""Laws of keras-dit train --teacher: whose process it is, what a run keeps, what is refused."""

import dataclasses
import json
import shutil

import keras
import pytest

import keras_dit
from keras_dit.cli import main, teaching

TINY = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]
DIGITS = ["train", "--data", "digits", "--limit", 64, "--batch-size", 32, "--checkpoint-every", 0]


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """An untrained model of a process that is no command's default."""
    network = keras_dit.DiTModel((8, 8, 1), 4, 16, 2, 4, num_classes=10)
    path = tmp_path_factory.mktemp("models") / "teacher.keras"
    process = keras_dit.processes.named("sit")
    keras_dit.Diffusion(network, process=process).save(path)
    return path


def run(folder, teacher, *options):
    learning = ["--teacher", teacher, "--teacher-share", 0.7, "--run", folder]
    return command(*DIGITS, *learning, *TINY, *options)


def test_a_student_is_trained_and_goes_on(teacher, tmp_path):
    folder, moved = tmp_path / "student", tmp_path / "moved.keras"
    assert run(folder, teacher, "--epochs", 1, "--teacher-tokens", "1:2") == 0
    objective = keras.saving.load_model(folder / "model.keras").objective
    assert (objective.teacher, objective.share) == (None, 0.7)
    assert objective.hidden == keras_dit.objectives.TokenRelations(student=1, teacher=2)
    shutil.copy(teacher, moved)
    assert command("train", "--resume", "--run", folder, "--epochs", 2, "--teacher", moved) == 0
    arguments = json.loads((folder / "config.json").read_text())["arguments"]
    assert arguments["teacher"] == str(moved)
    loaded = keras.saving.load_model(folder / "model.keras")
    assert teaching.alone(loaded.process) == keras_dit.processes.named("sit")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--teacher-share", 0.5], "--teacher-share needs a --teacher"),
        (["--teacher-tokens", "1:2"], "--teacher-tokens needs a --teacher"),
        (["--teacher", "TEACHER", "--teacher-tokens", "1:3"], "at most the 2 of its network"),
        (["--teacher", "nowhere.keras"], "--teacher: no model at nowhere.keras"),
        (["--teacher", "TEACHER", "--method", "ddpm"], "needs the schedule of its teacher"),
        (["--teacher", "TEACHER", "--no-labels"], "told what its teacher is told"),
    ],
)
def test_a_mistake_gets_one_line(options, says, teacher, tmp_path, capsys):
    options = [teacher if option == "TEACHER" else option for option in options]
    assert command(*DIGITS, *options, *TINY, "--epochs", 1, "--run", tmp_path / "run") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert says in shown.err


# keras-dit convert --prune


def test_a_pruned_model_is_trained_on(teacher, tmp_path):
    """By the command alone: cut by its loss on the data, then tuned to few steps."""
    small, folder = tmp_path / "small.keras", tmp_path / "run"
    how = ["--prune", "heads=3,mlp=40,depth=1", "--prune-data", "digits"]
    assert command("convert", teacher, small, *how) == 0
    network = keras.saving.load_model(small).network
    assert network.blocks[0].attention.qkv.kernel.shape == (16, 3 * 3 * 4)
    assert (len(network.blocks), network.blocks[0].mlp.mlp_out.kernel.shape[0]) == (1, 40)
    how = ["--from", small, "--method", "consistency", "--epochs", 1]
    assert command(*DIGITS, *how, "--run", folder) == 0
    tuned = keras.saving.load_model(folder / "model.keras")
    assert tuned.network.count_params() == network.count_params()
    consistency = keras_dit.processes.named("consistency").objective
    sit = keras_dit.processes.named("sit")  # whose schedule and prediction stay
    assert tuned.process == dataclasses.replace(sit, objective=consistency)
    few = ["--steps", 2, "--solver", "lcm", "--out", tmp_path / "few.png"]
    assert command("sample", folder, *few) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prune", "head=1"], "must be like heads=2,mlp=64,depth=3"),
        (["--prune", "depth=0"], "must be an integer of 1 or more"),
        (["--prune", "depth=3"], "depth must be how many are kept, from 1 to 2"),
        (["--prune-data", "digits"], "--prune-data needs a --prune"),
    ],
)
def test_a_mistake_in_pruning(options, says, teacher, tmp_path, capsys):
    try:
        code = command("convert", teacher, tmp_path / "small.keras", *options)
    except SystemExit as stopped:
        code = stopped.code
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert says in shown.err
