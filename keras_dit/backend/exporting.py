"""What Keras's `export` takes on each backend."""

import importlib.util

import keras

from keras_dit.backend.selection import BACKEND

if BACKEND == "torch":
    import torch

EXPORT_FORMAT = "torch" if BACKEND == "torch" else "tf_saved_model"

# The modules that a format takes beside the backend.
_MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    "jax": {"tf_saved_model": ("tensorflow",), "onnx": ("jax2onnx",)},
    "torch": {"tf_saved_model": ("torch_xla", "tensorflow"), "onnx": ("onnx",)},
    "tensorflow": {"onnx": ("tf2onnx",)},
}


def missing_modules(format: str) -> list[str]:
    """The modules that a format takes and that are not installed."""
    modules = _MODULES[BACKEND].get(format, ())
    return [module for module in modules if importlib.util.find_spec(module) is None]


def check_export(format: str) -> None:
    """Raise ImportError, with what to install, if a format takes a module that is not there."""
    missing = missing_modules(format)
    if missing:
        raise ImportError(
            f'export with format="{format}" on {BACKEND} needs {" and ".join(missing)}: '
            f"pip install {' '.join(missing)}"
        )


def open_batch(format: str, input_signature: list) -> dict:
    """The options of Keras's `export` in a format that leave the batch size open.

    All but torch's own format leave it open by themselves.
    """
    if format != "torch":
        return {}
    batch = torch.export.Dim("batch", min=1)
    shapes = keras.tree.map_structure(lambda _: {0: batch}, tuple(input_signature))
    return {"dynamic_shapes": shapes}
