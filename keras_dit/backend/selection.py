"""Which backend is used: settled before Keras is imported."""

import importlib.util
import json
import os
import pathlib
import sys

NAMES = ("jax", "torch", "tensorflow")


def installed(name: str) -> bool:
    """Whether the package of that backend can be imported."""
    return importlib.util.find_spec(name) is not None


def configured() -> str | None:
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
    """Settle the backend before Keras is imported; ImportError says why none can be used."""
    if "keras" in sys.modules:
        name = sys.modules["keras"].config.backend()
    else:
        name = configured() or next(filter(installed, NAMES), None)
    if name is None:
        raise ImportError("no backend is installed: pip install jax, or torch, or tensorflow")
    if name not in NAMES:
        raise ImportError(
            f"KERAS_BACKEND must be jax, torch or tensorflow. Received: KERAS_BACKEND={name}"
        )
    if not installed(name):
        raise ImportError(f"the backend {name} is not installed: pip install {name}")
    if name == "tensorflow":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notices are not the user's
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = name


_select()

import keras  # noqa: E402

BACKEND = keras.config.backend()
