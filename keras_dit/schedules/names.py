"""Time grids by name, for the command and for errors: a line each."""

from keras_dit.registry import Registry
from keras_dit.schedules.base import TimeGrid
from keras_dit.schedules.grids import (
    KarrasGrid,
    LeadingGrid,
    LinspaceGrid,
    LogSNRGrid,
    ShiftedGrid,
    UniformGrid,
)

__all__ = ["GRIDS", "named_grid"]

GRIDS = Registry(
    "grid",
    {
        "karras": KarrasGrid(),
        "leading": LeadingGrid(),
        "linspace": LinspaceGrid(),
        "log-snr": LogSNRGrid(),
        "shifted": ShiftedGrid(),
        "uniform": UniformGrid(),
    },
)


def named_grid(name: str) -> TimeGrid:
    """The grid of that name.

    Raises:
        ValueError: for an unknown name, with the valid ones, the nearest first.

    Example:

    >>> named_grid("leading")
    LeadingGrid(offset=0)
    """
    return GRIDS.named(name)
