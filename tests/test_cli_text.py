"""Laws of texts at the command line: training on captions, prompts, and what is kept of them."""

import json
import re

import pytest
from PIL import Image

import keras_dit
from keras_dit import datasets, processes
from keras_dit.cli import main, models, plan
from keras_dit.datasets import captioned

TINY = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]
CAPTIONS = ["a red square", "a blue square", "", "something dark"]


def command(*arguments):
    """Run the command in this process; returns its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # a mistake that the parser finds
        return stopped.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step on four images with captions."""
    root = tmp_path_factory.mktemp("captions")
    (root / "data").mkdir()
    rows = []
    for index, (colour, text) in enumerate(zip(("red", "blue", "white", "black"), CAPTIONS)):
        Image.new("RGB", (8, 8), colour).save(root / "data" / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "text": text}))
    (root / "data" / "metadata.jsonl").write_text("\n".join(rows))
    data = ["--data", root / "data", "--image-size", 8, "--batch-size", 4, "--epochs", 1]
    with pytest.warns(UserWarning, match="1 images have no caption"):
        assert command("train", *data, "--run", root / "run", "--optimizer", "sgd", *TINY) == 0
    return root / "run"


def test_a_run_knows_the_words_of_its_captions(run, capsys):
    text = models.load(str(run)).diffusion.network.conditions["text"]
    assert text.encoder.words == ("a", "square", "blue", "dark", "red", "something")
    assert text.length == 3
    shown = ["a red square", "a blue square", "something dark"]
    assert json.loads((run / "config.json").read_text())["prompts"] == shown
    assert (run / "samples" / "prompts.txt").read_text().splitlines() == shown
    assert command("info", run) == 0
    assert re.search(
        r"text +texts of up to 3 tokens, 6 words of their own", capsys.readouterr().out
    )


def test_prompts_make_images_that_can_be_trained_on(run, tmp_path, capsys):
    prompts = ["a red square", "a blue square"]
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, "", " "]))
    settings = ["--steps", 1, "--negative-prompt", "dark", "--out", tmp_path / "made"]
    assert command("sample", run, "--prompts", tmp_path / "prompts.txt", *settings) == 0
    assert "guidance 3," in capsys.readouterr().out
    data = datasets.load(tmp_path / "made", 2, image_size=8)
    assert data.conditions["text"] == prompts


def test_a_network_without_texts_learns_to_be_told_them(tmp_path, capsys):
    network = keras_dit.DiTModel((32, 32, 3), 8, 8, 1, 2, num_classes=3)
    keras_dit.Diffusion(network).save(tmp_path / "model.keras")
    arguments = ["--data", "captioned-digits", "--limit", 8, "--run", tmp_path / "run"]
    how = ["--epochs", 1, "--from", tmp_path / "model.keras"]
    assert command("train", *arguments, *how) == 0
    said = capsys.readouterr().out
    assert "text: new; the blocks attend to it by a cross-attention that starts at zero" in said
    assert "label: dropped" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a red red square"], "text: a text must be of at most 3 tokens"),
        (["--prompt", "a", "--prompts", "file"], "not allowed with"),
        (["--negative", "3"], "--negative: the network has no classes"),
        (["--prompt-guidance", "3", "--negative-prompt", "a"], "goes without --negative-prompt"),
        (["--prompts", "no such file"], "no such file"),
    ],
)
def test_mistakes_are_named(arguments, message, run, capsys):
    assert command("sample", run, *arguments) == 2
    assert message in capsys.readouterr().err


def test_what_suits_captioned_digits_is_chosen_unless_something_is_said():
    names = ("source", "preset", "epochs", "limit", "steps", "method", "patch_size", "batch_size")
    asked = {**dict.fromkeys(names), "data": "captioned-digits"}
    suited = plan.suited(asked)
    assert suited["patch_size"] == captioned.SIDE  # a digit is one token
    assert suited["method"] in processes.NAMED
    assert plan.suited({**asked, "patch_size": 4}).keys() == suited.keys() - {"patch_size"}
    assert plan.suited({**asked, "epochs": 3}).keys() == suited.keys() - {"steps"}
    assert plan.suited({**asked, "limit": 9}).keys() == suited.keys() - {"batch_size"}
    for other in ({"data": "digits"}, {"source": "a run"}, {"preset": "dit_s_4"}):
        assert plan.suited({**asked, **other}) == {}
