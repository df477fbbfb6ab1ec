"""Denoiser -> guided denoiser.

A guidance takes a denoiser and the condition of a batch and gives what a solver calls,
(x_t, rates) -> `Denoised`. Since x0 is linear in the network's output, guiding x0 and guiding
the noise are the same. Most guidances go from a weaker estimate past a stronger one,

    x0 = x0(weak) + scale (x0(strong) − x0(weak)),                                          (1)

and differ in what is weak.
"""

from keras_dit.guidance.base import Clipped, Guidance, Unguided
from keras_dit.guidance.conditioned import Conditioned
from keras_dit.guidance.contrast import Autoguidance, ClassifierFree, Contrast, NegativeLabel
from keras_dit.guidance.scales import Interval, Ramp
from keras_dit.guidance.told import Negative, PerCondition

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "Clipped",
    "Conditioned",
    "Contrast",
    "Guidance",
    "Interval",
    "Negative",
    "NegativeLabel",
    "PerCondition",
    "Ramp",
    "Unguided",
]
