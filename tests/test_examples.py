"""A notebook is the one that jupytext makes of its program. That it runs: test_programs.py."""

import pathlib

import jupytext
import pytest

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
def test_a_notebook_is_kept_with_small_outputs(notebook):
    code = [cell for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code if "print(" in cell.source)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert notebook.stat().st_size < 500_000


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
