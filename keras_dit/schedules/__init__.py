"""Noise schedules: how much signal and how much noise there is at time t; and time grids.

x_t = α(t) x0 + σ(t) ε,   ε ~ N(0, I),   t ∈ [0, 1]: 0 is data, 1 is noise.
"""

from keras_dit.schedules.base import NoiseSchedule, Rates, Step, TimeGrid, broadcast
from keras_dit.schedules.continuous import EDM, RectifiedFlow, ReversedFlow
from keras_dit.schedules.grids import (
    ArrayGrid,
    KarrasGrid,
    LeadingGrid,
    LinspaceGrid,
    LogSNRGrid,
    RespacedGrid,
    ShiftedGrid,
    UniformGrid,
)
from keras_dit.schedules.names import GRIDS, named_grid
from keras_dit.schedules.tables import (
    CosineBeta,
    LinearBeta,
    ScaledLinearBeta,
    TableSchedule,
    ZeroTerminalSNR,
)

__all__ = [
    "EDM",
    "GRIDS",
    "ArrayGrid",
    "CosineBeta",
    "KarrasGrid",
    "LeadingGrid",
    "LinearBeta",
    "LinspaceGrid",
    "LogSNRGrid",
    "NoiseSchedule",
    "Rates",
    "RectifiedFlow",
    "RespacedGrid",
    "ReversedFlow",
    "ScaledLinearBeta",
    "ShiftedGrid",
    "Step",
    "TableSchedule",
    "TimeGrid",
    "UniformGrid",
    "ZeroTerminalSNR",
    "broadcast",
    "named_grid",
]
