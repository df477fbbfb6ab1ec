"""The one place that warns."""

import inspect
import pathlib
import warnings

__all__ = ["warn"]

_PACKAGE = str(pathlib.Path(__file__).parent)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the line of the caller's program, not one of this package."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
