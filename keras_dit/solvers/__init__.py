"""One step from noisy to less noisy: a file for each family of solvers."""

from keras_dit.solvers.base import Solver
from keras_dit.solvers.ddim import DDIM, EulerAncestral
from keras_dit.solvers.ddpm import DDPM
from keras_dit.solvers.dpm import DPMSolverPP2M, DPMSolverPP2MSDE, DPMSolverPP3M
from keras_dit.solvers.euler import Euler, EulerMaruyama
from keras_dit.solvers.heun import Heun, Midpoint
from keras_dit.solvers.lcm import LCM
from keras_dit.solvers.names import NAMED, named
from keras_dit.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "LCM",
    "NAMED",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP3M",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "Solver",
    "UniPC",
    "named",
]
