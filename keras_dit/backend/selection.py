"""Which backend is used: settled before Keras is imported."""

import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile

_PACKAGES = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}


def _runs_as_command():
    # sys.argv[0] is "-m" while `python -m keras_dit` looks the package up.
    return sys.argv[0] == "-m" or pathlib.Path(sys.argv[0]).stem == "keras-dit"


def _refuse(message):
    """Raise ImportError, or, when the package runs as a command, print one line and exit."""
    if _runs_as_command():
        print(f"keras-dit: error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


def installed(name):
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def configured():
    """The backend that the user chose: by environment, else in Keras's own file, else None."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    try:
        name = json.loads((home / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Keras writes "tensorflow" there at its first import, whatever is installed.
    return name if name != "tensorflow" or installed(name) else None


def _select():
    """Settle the backend before Keras is imported, or say why none can be used."""
    if "keras" in sys.modules:
        name = sys.modules["keras"].config.backend()
    else:
        name = configured() or next(filter(installed, _PACKAGES), None)
    if name is None:
        _refuse(
            "no backend is installed. Install one of jax, torch and tensorflow, "
            'for example with: pip install "keras_dit[jax]"'
        )
    if name not in _PACKAGES:
        _refuse(f"KERAS_BACKEND must be jax, torch or tensorflow. Received: KERAS_BACKEND={name}")
    if not installed(name):
        _refuse(f'the backend {name} is not installed: pip install "keras_dit[{name}]"')
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = name


def _start_tensorflow():
    """Import TensorFlow and keep its start-up notices off a command's terminal.

    TF_CPP_MIN_LOG_LEVEL is not enough: TensorFlow 2.21 writes them whatever it says. Only lines
    that are known are kept back: information, and the error 303 of a machine without CUDA.
    """
    notice = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} |E\d{4} .*\(303\)$")
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if not notice.match(line):
                    os.write(2, line)


_select()
if os.environ.get("KERAS_BACKEND") == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notices are not the user's
    if _runs_as_command():
        _start_tensorflow()

import keras  # noqa: E402

BACKEND = keras.config.backend()
