"""How the command keras-dit starts, before the library is there: in one line, or quietly.

A mistake that a library answers with an ImportError and its traceback is answered here with one
line. `keras_dit/__init__.py` is the first of the package that runs, so it begins with `start`.
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator

__all__ = ["plain_warnings", "quiet", "start"]

# Start-up notices of TensorFlow: information, and the error 303 of a machine without CUDA.
_NOTICE = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} |E\d{4} .*\(303\)$")


def _is_running():
    # sys.argv[0] is "-m" while `python -m keras_dit` looks the package up.
    return sys.argv[0] == "-m" or pathlib.Path(sys.argv[0]).stem == "keras-dit"


@contextlib.contextmanager
def start() -> Iterator[None]:
    """Around the choice of the backend; does nothing where the library is imported by others."""
    if not _is_running():
        yield
        return
    try:
        with quiet():
            yield
    except ImportError as error:
        print(f"keras-dit: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show a warning as one line, without the line of the program that it came from."""
    before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(message, *_, **__):
    return f"keras-dit: warning: {' '.join(str(message).split())}\n"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TensorFlow's start-up notices off the terminal; every other line comes afterwards.

    TF_CPP_MIN_LOG_LEVEL is not enough: TensorFlow 2.21 writes them whatever it says.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # it is closed: nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not _NOTICE.match(line):
                    os.write(2, line)
