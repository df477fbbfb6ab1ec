"""The one place that writes a file: beside, to the disk, renamed."""

import contextlib
import errno
import os
import pathlib
import uuid
from collections.abc import Iterator

__all__ = ["beside", "leftovers"]


@contextlib.contextmanager
def beside(path: str | os.PathLike, what: str = "") -> Iterator[pathlib.Path]:
    """The path of a new file next to `path`, which takes its place when the block is through.

    At any moment, after a kill or a power cut too, `path` is the old file or the new one, whole.
    Its folder is created where needed, a symbolic link stays one, and the new file has the mode
    that the umask gives, whoever writes it.

    Args:
        path: of the file that is written or replaced.
        what: what an error calls it before its path, such as "the checkpoint ".

    Yields:
        where to write, with the suffix of `path`. Nothing is there yet.

    Raises:
        OSError: if it cannot be written, with a full disk for instance. What was there stays.

    Example:

    ```python
    with files.beside("runs/a/config.json") as new:
        new.write_text("{}")
    ```
    """
    target = pathlib.Path(path).resolve()
    new = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.new{target.suffix}")
    try:
        mode = _claim(target, new)
        yield new
        os.chmod(new, mode)
        _sync(new, os.O_RDWR)
        os.replace(new, target)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(target.parent, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot write {what}{path}: {reason}. What was there before is intact"
        raise OSError(error.errno, message) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def leftovers(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The unfinished files that killed writers left in a folder."""
    return list(pathlib.Path(folder).glob(".*.new*"))


def _claim(target, new):
    """The mode of a new file there; OSError where none can be, before any work is done."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    return mode


def _sync(path, flags):
    """Bring a file, or a folder's names, to the disk, so that it outlives a power cut."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
