"""A user's mistake gets exit code 2 and one line on stderr, before any work is done."""

import os
import shlex

import pytest

import keras_dit
from keras_dit.cli import main

TRAIN = ["train", "--data", "digits", "--run", "RUN"]
SAMPLE = ["sample", "MODEL", "--out", "OUT/grid.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model of ten classes."""
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=10)
    path = tmp_path_factory.mktemp("models") / "model.keras"
    keras_dit.Diffusion(network, keras_dit.schedules.LinearBeta(steps=100)).save(path)
    return path


def refusal(capsys, arguments):
    """The one line that a mistake gets."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        code = stopped.code
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert len(shown.err.splitlines()) == 1
    start = f"keras-dit {arguments[0]}: error: "
    assert shown.err.startswith(start)
    return shown.err.removeprefix(start)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--data digts", "one of digits, captioned-digits, fashion-mnist"),
        ("--data nowhere/photos", "existing folder"),
        ("--preset dit_s_3", "one of dit_s_"),
        ("--preset dit_xxl_2", "one of dit_xl_2,"),
        ("--method flows", "one of flow, "),
        ("--patch-size 3", "--patch-size 3, input_shape=(8, 8, 1)"),
        ("--patch-size 0", "--patch-size: must be an integer of 1 or more, not '0'"),
        ("--hidden-size 12 --num-heads 5", "--hidden-size 12, --num-heads 5"),
        ("--image-size 16", "--image-size must be None or (8, 8)"),
        ("--steps 0", "--steps: must be an integer of 1 or more, not '0'"),
        ("--epochs 2.5", "--epochs: must be an integer of 1 or more, not '2.5'"),
        ("--epochs 1 --steps 1", "not allowed with"),
        ("--batch-size 1798", "1797"),
        ("--learning-rate -0.1", "--learning-rate: must be a finite number above 0"),
        ("--learning-rate nan", "--learning-rate: must be a finite number above 0"),
        ("--ema 1", "--ema 1.0"),
        ("--ema nan", "--ema: must be a finite number"),
        ("--dtype float31", "float31"),
        ("--seed -1", "--seed: must be an integer of 0 or more, not '-1'"),
    ],
)
def test_a_mistake_in_training(options, says, tmp_path, capsys):
    arguments = [tmp_path / "run" if part == "RUN" else part for part in TRAIN]
    assert says in refusal(capsys, [*arguments, *shlex.split(options)])
    assert not list(tmp_path.iterdir())  # no empty folder is left


def test_a_run_folder_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "config.json").write_text("of another run")
    message = refusal(capsys, ["train", "--data", "digits", "--run", tmp_path])
    assert str(tmp_path) in message
    assert (tmp_path / "config.json").read_text() == "of another run"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--labels 0,10", "a class of 0 ... 9. Received: '10'"),
        ("--labels=-1", "a class of 0 ... 9. Received: '-1'"),
        ("--labels cat", "--labels: must be a class of 0 ... 9. Received: 'cat'"),
        ("--labels 1.0", "--labels: must be a class of 0 ... 9. Received: '1.0'"),
        ("--labels ''", "--labels: must be a class of 0 ... 9. Received: ''"),
        ("--labels 1 --num-images 1", "not allowed with"),
        ("--num-images 0", "--num-images: must be an integer of 1 or more, not '0'"),
        ("--steps 0", "--steps: must be an integer of 1 or more, not '0'"),
        ("--steps 101", "at most the schedule's 100"),
        ("--solver dimm", "one of ddim, "),
        ("--guidance nan", "--guidance: must be a finite number, not 'nan'"),
        ("--guidance inf", "--guidance: must be a finite number, not 'inf'"),
        ("--out grid.jpg", "a .png, .npy or .npz file, or a folder. Received: grid.jpg"),
        ("--out MODEL/grid.png", "cannot write to the folder"),
    ],
)
def test_a_mistake_in_sampling(options, says, model, tmp_path, capsys):
    arguments = [
        part.replace("MODEL", str(model)).replace("OUT", str(tmp_path))
        for part in SAMPLE + shlex.split(options)
    ]
    assert says in refusal(capsys, arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.keras", "text.pt"])
def test_a_model_that_is_none(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for file in ("text.keras", "text.pt"):
        (tmp_path / file).write_text("no weights")
    message = refusal(capsys, ["sample", tmp_path / name, "--out", tmp_path / "grid.png"])
    assert name in message


def test_a_file_of_another_model(tmp_path, capsys):
    keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2).save(tmp_path / "network.keras")
    arguments = ["sample", tmp_path / "network.keras", "--out", tmp_path / "grid.png"]
    assert "holds a DiTModel, not a Diffusion" in refusal(capsys, arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to(model, tmp_path, capsys):
    tmp_path.chmod(0o500)
    message = refusal(capsys, ["sample", model, "--out", tmp_path / "new" / "grid.png"])
    assert f"cannot write to the folder {tmp_path / 'new'}" in message
    assert "cannot write" in refusal(capsys, ["demo", "--out", tmp_path / "demo"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("dit_s_3", "one of dit_s_"),
        ("dit_xl2", "one of dit_xl_2, "),
        ("--input-shape 32,32", "--input-shape (32, 32)"),
        ("--input-shape 32x32x4", "--input-shape: must be like 32,32,4, not '32x32x4'"),
        ("dit_s_4 --input-shape 30,30,4", "patch_size=4, --input-shape (30, 30, 4)"),
        ("--num-classes 0", "--num-classes: must be an integer of 1 or more, not '0'"),
    ],
)
def test_a_mistake_in_info(options, says, capsys):
    assert says in refusal(capsys, ["info", *shlex.split(options)])


@pytest.mark.parametrize(
    ("shape", "says"),
    [("32x32x3", "--input-shape: must be like 32,32,4"), ("30,30,3", "--input-shape (30, 30, 3)")],
)
def test_a_mistake_in_bench(shape, says, capsys):
    assert says in refusal(capsys, ["bench", "--input-shape", shape])


@pytest.mark.parametrize(("wrong", "near"), [("trian", "train"), ("info --speed 9", "--speed")])
def test_a_command_or_an_option_that_is_none(wrong, near, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(wrong.split())
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("keras-dit: error: ")
    assert near in line
