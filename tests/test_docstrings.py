"""The examples in docstrings run."""

import doctest
import importlib
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_dit

PACKAGE = pathlib.Path(keras_dit.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())
# What an example may use without importing it, beside the public names of its own room.
NAMES = {"keras": keras, "keras_dit": keras_dit, "np": np, "ops": keras.ops}
SHAPE = re.compile(r"(?:torch\.Size|TensorShape)\(\[([^]]*)\]\)")


class Checker(doctest.OutputChecker):
    """A shape is a tuple, whatever the backend writes for it."""

    def check_output(self, want, got, optionflags):
        def tuple_of(found):
            return f"({found[1]},)" if "," not in found[1] and found[1] else f"({found[1]})"

        return super().check_output(want, SHAPE.sub(tuple_of, got), optionflags)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_examples_of_a_file_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    room = vars(importlib.import_module(".".join(parts[:2])))
    names = NAMES | room | vars(module)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, globs=names):
        runner.run(test)
    assert runner.summarize(verbose=False).attempted
    assert not runner.failures
