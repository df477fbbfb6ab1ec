"""Diffusion Transformers in Keras 3: one code base for JAX, PyTorch and TensorFlow."""

from keras_dit import command  # isort: skip

# First: it settles the backend before anything imports Keras.
with command.start():
    from keras_dit import backend  # noqa: F401

from keras_dit import (
    adapt,
    averages,
    caching,
    checkpoints,
    codecs,
    conditions,
    datasets,
    evaluation,
    gaussian,
    guidance,
    images,
    layers,
    metrics,
    objectives,
    predictions,
    processes,
    sampler,
    schedules,
    solvers,
    weights,
)
from keras_dit.diffusion import Diffusion
from keras_dit.layers import AdaLNBlock, PatchEmbedding
from keras_dit.networks import DiTModel
from keras_dit.predictions import Denoised
from keras_dit.processes import Process
from keras_dit.sampling.denoiser import Denoiser
from keras_dit.schedules import Rates

__version__ = "0.1.0"

__all__ = [
    "AdaLNBlock",
    "Denoised",
    "Denoiser",
    "DiTModel",
    "Diffusion",
    "PatchEmbedding",
    "Process",
    "Rates",
    "adapt",
    "averages",
    "caching",
    "checkpoints",
    "codecs",
    "conditions",
    "datasets",
    "evaluation",
    "gaussian",
    "guidance",
    "images",
    "layers",
    "metrics",
    "objectives",
    "predictions",
    "processes",
    "sampler",
    "schedules",
    "solvers",
    "weights",
]

# What completion shows of a room is what is meant for its users.
for _room in [globals()[name] for name in __all__]:
    if hasattr(_room, "__all__"):
        _room.__dir__ = _room.__all__.copy
