"""Every example runs, and its notebook is the one that jupytext makes of it."""

import os
import pathlib
import subprocess
import sys

import jupytext
import pytest

import keras_dit

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECTIONS = (
    "1. Dependencies",
    "2. Components",
    "3. Sizes",
    "4. Conditional generation",
    "5. Visualisation",
    "6. Throughput",
    "7. Summary",
)


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_what_jupytext_makes_of_its_program(notebook):
    assert cells(notebook) == cells(notebook.with_suffix(".py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook):
    code = [cell for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_demo_has_its_seven_sections():
    headings = [
        line.removeprefix("## ")
        for kind, source in cells(FOLDER / "dit_demo.ipynb")
        for line in source.splitlines()
        if kind == "markdown" and line.startswith("## ")
    ]
    assert len(headings) == len(SECTIONS)
    assert all(heading.startswith(section) for heading, section in zip(headings, SECTIONS))


def test_the_readme_has_a_row_for_each_example():
    rows = (FOLDER / "README.md").read_text()
    for program in FOLDER.glob("*.py"):
        assert f"`python examples/{program.name}" in rows


def test_the_demo_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "dit_demo.py"],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": keras_dit.backend.BACKEND, "DIT_DEMO_QUICK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "a new block changes its tokens by 0\n" in done.stdout
    assert "largest value 0\n" in done.stdout
    assert "cut and joined, the same: True" in done.stdout
    written = sorted(path.name for path in (tmp_path / "runs" / "dit_demo").iterdir())
    assert written == ["guidance.png", "trajectory.png"]


def test_every_kind_of_part_can_come_from_outside():
    """It trains with all of them, and a fresh process loads them and makes the same images."""
    done = subprocess.run(
        [sys.executable, FOLDER / "own_parts.py"],
        env={**os.environ, "KERAS_BACKEND": keras_dit.backend.BACKEND},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the same from .npz: True" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-5
