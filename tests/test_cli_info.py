"""keras-dit info against the published sizes, and what --help shows."""

import shlex

import pytest

import keras_dit
from keras_dit.cli import main

COMMANDS = ("demo", "train", "sample", "autoencoder", "encode", "convert", "info", "bench")
# Parameters of facebookresearch/DiT's networks; multiply-adds of table 4 of the paper, which
# counts neither biases nor activations.
PARAMETERS = {
    "dit_s_2": 32_963_360,
    "dit_b_2": 130_512_416,
    "dit_l_2": 458_102_816,
    "dit_xl_2": 675_129_632,
}
GIGA_MULTIPLY_ADDS = {
    "s": (6.06, 1.41, 0.36),
    "b": (23.01, 5.57, 1.42),
    "l": (80.70, 19.70, 5.01),
    "xl": (118.62, 29.04, 7.39),
}


def table(capsys, *arguments):
    """The rows of the printed table by their size."""
    assert main(["info", *arguments]) == 0
    heading, rule, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "size", "tokens", "parameters", "multiply-adds", "weights", "training",
    ]  # fmt: skip
    assert set(rule) == {"-", " "}
    return {row.split()[0]: row.split()[1:] for row in rows}


def test_the_table_holds_the_published_numbers(capsys):
    rows = table(capsys, "--learned-variance")
    assert len(rows) == 12 + 5 + 8  # of DiT, of LightningDiT and of JiT
    for name, parameters in PARAMETERS.items():
        assert int(rows[name][1].replace(",", "")) == parameters
    for size, costs in GIGA_MULTIPLY_ADDS.items():
        for patch, cost in zip((2, 4, 8), costs):
            assert float(rows[f"dit_{size}_{patch}"][2]) == pytest.approx(cost, abs=0.0051)


def test_a_larger_picture_has_its_published_cost(capsys):
    arguments = ("dit_xl_2", "--input-shape", "64,64,4", "--learned-variance")
    (row,) = table(capsys, *arguments).values()
    assert row[0] == "1024"
    assert float(row[2]) == pytest.approx(524.5, abs=0.06)


def test_another_picture_and_other_classes_change_what_they_must(capsys):
    (published,) = table(capsys, "dit_s_8").values()
    arguments = ("dit_s_8", "--input-shape", "16,24,4", "--num-classes", "7")
    (row,) = table(capsys, *arguments).values()
    assert (published[0], row[0]) == ("16", "6")
    fewer = (16 - 6) * 384 + (1000 - 7) * 384  # positions and labels, each of the hidden size
    parameters = int(published[1].replace(",", "")) - fewer
    assert int(row[1].replace(",", "")) == parameters
    assert row[4:6] == [f"{parameters * 4 / 1e9:.2f}", "GB"]


def test_training_takes_what_the_batch_leaves_for_the_gradient(capsys):
    def gigabytes(batch):
        ((*_, number, unit),) = table(capsys, "dit_s_4", "--batch-size", str(batch)).values()
        assert unit == "GB"
        return float(number)

    one, many = gigabytes(1), gigabytes(101)
    assert many > 3 * one  # 20 bytes a parameter are there for any batch, activations for each
    assert gigabytes(201) - many == pytest.approx(many - one, abs=0.02)


@pytest.fixture(scope="module")
def model():
    network = keras_dit.DiTModel((8, 12, 3), 4, 8, 1, 2, num_classes=3)
    return keras_dit.Diffusion(network, prediction=keras_dit.predictions.V())


@pytest.mark.parametrize("name", ["model.keras", "model.pt"])
def test_a_model_is_described(model, name, tmp_path, capsys):
    process = {"schedule": model.schedule, "prediction": model.prediction, "codec": model.codec}
    if name.endswith(".keras"):
        model.save(tmp_path / name)
    else:
        names = ["cat", "dog", "cow"]
        keras_dit.weights.export(model.network, tmp_path / name, class_names=names, **process)
    assert main(["info", str(tmp_path / name)]) == 0
    shown = capsys.readouterr().out
    for fact in ("8 x 12, 3 channels", "1 block of width 8", "2 heads", "LinearBeta", "V("):
        assert fact in shown
    assert f"{model.network.count_params():,} parameters" in shown
    assert ("3: cat, dog, cow" if name.endswith(".pt") else "3, without names") in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_parser_takes(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.replace("\\\n", " ").splitlines()
    examples = [
        line.partition("keras-dit ")[2] for line in lines if line.lstrip().startswith("exa")
    ]
    examples += [line.strip().removeprefix("keras-dit ") for line in lines if "  keras-dit" in line]
    examples = [example for example in examples if example]
    assert examples
    for example in examples:
        assert keras_dit.cli.parser().parse_args(shlex.split(example)).command == command


def test_the_help_of_all_names_every_command(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in COMMANDS)
    assert "KERAS_BACKEND" in shown
    assert main([]) == 0  # bare, it prints help too
    assert capsys.readouterr().out == shown
