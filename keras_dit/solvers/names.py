"""Solvers by name, for the command and for errors: a line each."""

from keras_dit.registry import Registry
from keras_dit.solvers.base import Solver
from keras_dit.solvers.ddim import DDIM, EulerAncestral
from keras_dit.solvers.ddpm import DDPM
from keras_dit.solvers.dpm import DPMSolverPP2M, DPMSolverPP2MSDE, DPMSolverPP3M
from keras_dit.solvers.euler import Euler, EulerMaruyama
from keras_dit.solvers.heun import Heun, Midpoint
from keras_dit.solvers.lcm import LCM
from keras_dit.solvers.unipc import UniPC

__all__ = ["NAMED", "named"]

NAMED = Registry(
    "solver",
    {
        "ddim": DDIM(),
        "ddim-eta1": DDIM(1.0),
        "ddpm": DDPM(),
        "ddpm-large": DDPM(1.0),
        "dpmpp-2m": DPMSolverPP2M(),
        "dpmpp-2m-sde": DPMSolverPP2MSDE(),
        "dpmpp-3m": DPMSolverPP3M(),
        "euler": Euler(),
        "euler-ancestral": EulerAncestral(),
        "euler-maruyama": EulerMaruyama(),
        "heun": Heun(),
        "lcm": LCM(),
        "midpoint": Midpoint(),
        "unipc-2": UniPC(2),
        "unipc-3": UniPC(3),
    },
)


def named(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: for an unknown name, with the valid ones, the nearest first.

    Example:

    >>> named("unipc-3")
    UniPC(order=3)
    """
    return NAMED.named(name)
