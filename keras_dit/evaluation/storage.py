"""Where statistics and weights that are used again lie, and how they come there.

The folder is `evaluation` in KERAS_DIT_CACHE where that is set, else in `keras_dit` of the user's
folder for caches. Everything in it can be deleted.
"""

import hashlib
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dit import backend, files
from keras_dit.progress import Bar

__all__ = ["cache_folder", "fetched", "read_arrays", "sha256_of", "write_arrays"]

_CHUNK = 2**20


def cache_folder() -> pathlib.Path:
    """The folder of what is used again; it may not exist yet."""
    return backend.cache_folder() / "evaluation"


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name as `.npz`, so that the file is the old one or the new one, whole."""
    with files.beside(path) as new, open(new, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name.

    Raises:
        ValueError: for a file that is none, or a broken one.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the bytes break
        raise ValueError(f"{path} is no .npz file, or a broken one: {error}") from error


def _expected(url):
    """The address without its fragment, the name of its file and its SHA-256 or the start of it."""
    address, _, fragment = url.partition("#")
    name = address.rpartition("/")[2]
    if fragment.startswith("sha256="):
        return address, name, fragment.removeprefix("sha256=").lower()
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not found:
        raise ValueError(
            f"{url} does not say its SHA-256: add #sha256=... to the address, or get the file "
            "yourself and give its path"
        )
    return address, name, found[1]


def fetched(url: str, folder: pathlib.Path | None = None) -> pathlib.Path:
    """The file at an address, fetched once, and used only where its SHA-256 is the one expected.

    Args:
        url: https://...; its SHA-256 stands at its end, as #sha256=..., or its first digits in
            the file's name, as in name-6726825d.pth.
        folder: where it is kept; None: the `cache_folder`.

    Raises:
        ValueError: if the address says no SHA-256, or the file has another one.
        FileNotFoundError: if it cannot be had.
    """
    address, name, expected = _expected(url)
    path = (folder or cache_folder()) / name
    if not path.is_file():
        try:
            _download(address, path)
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise FileNotFoundError(
                f"{address} cannot be had ({reason}): get the file elsewhere and give its path"
            ) from error
    found = sha256_of(path)
    if not found.startswith(expected):
        path.unlink()
        raise ValueError(
            f"{address} is not the file that was expected, and was thrown away: its SHA-256 must "
            f"begin with {expected}. Received: {found}"
        )
    return path


def _download(address, path):
    with urllib.request.urlopen(address, timeout=60) as answer, files.beside(path) as new:
        total = int(answer.headers.get("Content-Length") or 0) or None
        look = {"desc": f"fetching {path.name}", "unit": "B", "unit_scale": True}
        with Bar(total=total, **look) as bar, open(new, "wb") as file:
            while part := answer.read(_CHUNK):
                file.write(part)
                bar.update(len(part))
