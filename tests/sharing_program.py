"""Two processes that share pieces of work: python -m sharing_program WHAT FOLDER.

For tests/test_sharing.py, which has the second process fail at last, be killed, or be slow.
"""

import os
import pathlib
import signal
import sys
import time

import numpy as np

from keras_dit import backend


def main(what, folder):
    def make(key):
        if backend.helps() and key == 31:
            raise ValueError(f"piece {key} is bad")
        if backend.helps() and what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "slow":
            time.sleep(60)
        return {"squared": np.array([key**2]), "by": os.getpid()}

    stored = folder / "stored"
    with backend.team(2, "sharing_program", sys.argv[1:]):
        with backend.first():
            found = stored.exists()
            stored.touch()
        if backend.helps() and not found:
            raise ValueError("the one that helps came first")
        (folder / ("helps" if backend.helps() else "leads")).write_text(str(os.getpid()))
        for keys in (range(5), range(0), (30, 31)):
            with backend.helping():
                made = list(backend.shared(make, keys))
                print([int(piece["squared"][0]) for piece in made], len({p["by"] for p in made}))


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
