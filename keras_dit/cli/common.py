"""What the commands share: folders, files, tables and words."""

import contextlib
import pathlib
import uuid
from collections.abc import Iterator, Sequence

import keras

from keras_dit import backend, files

__all__ = ["claimed", "counted", "save_model", "table", "writable_folder"]


def writable_folder(path: str | pathlib.Path) -> pathlib.Path:
    """Create the folder and try to write there, before any work is done for it.

    Raises:
        OSError: if that fails.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder


@contextlib.contextmanager
def claimed(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that can be written to. If the block fails, none that was made for it stays empty.

    A process that only helps another one leaves it alone.

    Raises:
        OSError: if it cannot be written to.
    """
    folder = pathlib.Path(path)
    if backend.helps():
        yield folder
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield writable_folder(folder)
    except BaseException:
        for place in made:
            with contextlib.suppress(OSError):  # it holds something
                place.rmdir()
        raise


def save_model(model: keras.Model, path: str | pathlib.Path) -> None:
    """Save a `.keras` file; one that was good stays until the new one is whole."""
    with files.beside(path) as new:
        model.save(new)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns, the first row a heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """1 image, 2 images, 60,000 images; 2 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"
