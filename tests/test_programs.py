"""The programs of the README, the docs and the examples run as a newcomer runs them.

That is: in a home without Keras's settings, with one backend installed and none chosen but by the
program itself. Where a program says "jax", this test says the backend under which it runs. Only
the number of epochs is made smaller. All programs of a page are one: each goes on with the names of
those before it. The README and `own_parts` run under every backend, each of the others under one.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_dit
from keras_dit import cli
from keras_dit.backend import BACKEND

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = ROOT / "tests" / "goldens" / "v010" / "torch" / "run" / "model.keras"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BACKENDS = "jax", "tensorflow", "torch"
EVERYWHERE = {ROOT / "README.md", ROOT / "examples" / "own_parts.py"}
CHOICE = re.compile(r'("KERAS_BACKEND"(?:\] =|,) )"jax"')
EPOCHS = re.compile(r"epochs=\d+")


def name(path):
    return str(path.relative_to(ROOT))


def blocks(page, language):
    """The programs of a page in that language."""
    pattern = rf"^( *)```{language}\n(.*?)^ *```$"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def program(page):
    return EPOCHS.sub("epochs=1", "\n".join(blocks(page, "python")))


def run(source, folder, *arguments):
    """Run a program as a newcomer would."""
    home = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "KERAS_HOME")}
    home |= {"HOME": str(folder), "DIT_DEMO_QUICK": "1", "PYTHONPATH": str(ROOT)}
    path = folder / "program.py"
    path.write_text(CHOICE.sub(rf'\1"{BACKEND}"', source))
    done = subprocess.run(
        [sys.executable, path, *arguments], cwd=folder, env=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """Where a reader stands: beside a folder of photos, one folder for each class."""
    draws = np.random.default_rng(0)
    for place in ("cats", "dogs"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for i in range(8):
            image = draws.uniform(-1, 1, (20, 24, 3))
            keras_dit.images.save_png(
                tmp_path / "photos" / place / f"{i}.png", keras_dit.images.to_uint8(image)
            )
    return tmp_path


def here(paths):
    """Those that run under this backend."""
    rest = [path for path in paths if path not in EVERYWHERE]
    own = rest[BACKENDS.index(BACKEND) :: len(BACKENDS)]
    return [path for path in paths if path in EVERYWHERE or path in own]


@pytest.mark.parametrize("page", here([p for p in PAGES if blocks(p, "python")]), ids=name)
def test_the_programs_of_a_page_run(page, folder):
    run(program(page), folder)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_a_page_chooses_the_backend_before_keras_is_imported(page):
    lines = program(page).splitlines()
    chosen = 'os.environ["KERAS_BACKEND"] = "jax"  # or "torch", "tensorflow"'
    assert lines[:2] == ["import os", chosen]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples" / "README.md"], ids=name)
def test_the_commands_of_a_page_exist(page):
    """Each is one that the parser takes; a run of every command stands in test_cli.py."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if "keras-dit" in words:
            cli.parser().parse_args(words[words.index("keras-dit") + 1 :])


# An example's arguments, and what its output has to hold.
QUICK = ("--seconds=0", "--seeds=0", "--count=20")
EXAMPLES = {
    "dit_demo": (
        (),
        (
            "a new block changes its tokens by 0\n",
            "largest value 0\n",
            "cut and joined, the same: True",
        ),
    ),
    "finetuning": (
        ("--base-steps", "1", "--steps", "1", "--seeds", "1", "--count", "8"),
        ("six-digits further 1 0 ", "six-digits anew 1 0 "),
    ),
    "modern_parts": (
        (*QUICK, "--data=digits", "--features=pixels", "--ways=modern, patch 4"),
        ("modern, patch 4 | 1 seeds | training steps 21 ",),
    ),
    "own_parts": ((), ("the same from .npz: True", "the same images after loading: True")),
    "quality": (
        ("digits.keras", "--count", "20", "--only", "guidance"),
        ("guidance  1.25 ",),
    ),
    "one_step": (
        (*QUICK, "--ways=meanflow", "--scales=1.5"),
        ("meanflow 0 0", " 50 1.5 "),
    ),
    "solver_quality": (
        ("digits.keras", "--out", "quality", "--count", "20", "--evaluations", "5"),
        ("UniPC-3 5 ", "real digits, half to half"),
    ),
    "step_cache": (
        ("digits.keras", "--count", "20", "--batch-size", "20"),
        ("PeriodicCache(6)",),
    ),
}


@pytest.mark.parametrize("example", here(sorted((ROOT / "examples").glob("*.py"))), ids=name)
def test_an_example_runs(example, folder):
    shutil.copy(DIGITS, folder / "digits.keras")
    arguments, expected = EXAMPLES[example.stem]
    output = run(example.read_text(), folder, *arguments)
    assert all(text in output for text in expected)


def links(page):
    """What a page points to, without the places on other pages."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return {link.partition("#")[0] for link in found if not link.startswith(("http", "#"))}


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*/README.md")], ids=name)
def test_a_page_points_to_what_is_there(page):
    missing = {link for link in links(page) if not (page.parent / link).exists()}
    assert not missing
