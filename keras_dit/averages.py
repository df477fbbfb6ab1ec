"""Averages of the weights whose length is chosen after training.

diffusion = keras_dit.Diffusion(network, ema=keras_dit.averages.Power())
diffusion.compile()
diffusion.fit(images, labels, callbacks=[keras_dit.averages.Snapshots("run/averages")])
keras_dit.averages.load(diffusion, "run/averages", std=0.15)
"""

from keras_dit.training.posthoc import (
    Reconstruction,
    coefficients,
    load,
    profile_error,
    reach,
    reconstruct,
)
from keras_dit.training.profiles import Power, exponent, width
from keras_dit.training.snapshots import Snapshots

__all__ = [
    "Power",
    "Reconstruction",
    "Snapshots",
    "coefficients",
    "exponent",
    "load",
    "profile_error",
    "reach",
    "reconstruct",
    "width",
]
