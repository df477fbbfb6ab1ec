"""A folder of checkpoints: the newest few, and the best."""

import os
import pathlib
import shutil

from keras_dit import notices
from keras_dit.files import beside, leftovers
from keras_dit.training.checkpoints import files

BEST = "best.safetensors"


def path_of(folder, steps):
    """Where the checkpoint after so many steps lies."""
    return pathlib.Path(folder) / f"step_{steps:08d}.safetensors"


def paths(folder):
    """All checkpoints but the best, the newest first."""
    found = pathlib.Path(folder).glob("step_*.safetensors")
    return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)


def newest(folder):
    """The newest checkpoint that is whole.

    Damaged ones are passed over with a warning, and put aside as `.corrupt`.

    Returns:
        path, arrays, facts; or None if the folder has no checkpoint.

    Raises:
        CorruptCheckpointError: if there are checkpoints, and none is whole.
    """
    damaged = None
    for path in paths(folder):
        try:
            arrays, facts = files.read(path)
        except files.CorruptCheckpointError as error:
            damaged = damaged or error
            continue
        if damaged:
            _put_aside(folder, path)
        return path, arrays, facts
    if damaged:
        raise damaged
    return None


def _put_aside(folder, whole):
    for path in paths(folder):
        if path == whole:
            break
        path.rename(path.with_name(f"{path.name}.corrupt"))
        notices.warn(f"corrupt checkpoint: {path}; the one before it is used")


def prune(folder, keep):
    """Leave the newest `keep` checkpoints, and nothing that a killed write left."""
    for path in paths(folder)[keep:]:
        path.unlink()
    for path in leftovers(folder):
        path.unlink()


def mark_best(path):
    """Make a checkpoint the best one, under a name of its own, without a second copy on disk."""
    with beside(path.with_name(BEST)) as new:
        try:
            os.link(path, new)
        except OSError:  # a file system without links
            shutil.copyfile(path, new)
