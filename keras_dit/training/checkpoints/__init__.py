"""Checkpoints: the whole state of a training, so that it goes on exactly where it was stopped.

diffusion.fit(data, epochs=100, callbacks=[keras_dit.checkpoints.Checkpoint("run")])
diffusion.fit(data, epochs=100, callbacks=[keras_dit.checkpoints.Checkpoint("run", resume=True)])
"""

from keras_dit.training.checkpoints.callback import Checkpoint, Interrupted
from keras_dit.training.checkpoints.files import CorruptCheckpointError, read, write
from keras_dit.training.checkpoints.folder import newest
from keras_dit.training.checkpoints.state import load, save

__all__ = [
    "Checkpoint",
    "CorruptCheckpointError",
    "Interrupted",
    "load",
    "newest",
    "read",
    "save",
    "write",
]
