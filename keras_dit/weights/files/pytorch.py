"""PyTorch's .pt files, both containers, without PyTorch.

    zip (1.6 and later)   NAME/data.pkl, a pickle, and one entry NAME/data/KEY for each storage
    legacy                five pickles (a magic number, a version, facts, the object, the storages'
                          keys), then for each key the storage's length and its numbers

Nothing is run (see pickles.py), and a tensor's numbers are read when they are asked for. The zip
container has a checksum of each entry, the legacy one has none.
"""

import io
import math
import os
import zipfile
import zlib
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 by it; Keras depends on it)
import numpy as np

from keras_dit.files import beside
from keras_dit.weights.files import pickles
from keras_dit.weights.files.stored import Stored

MAGIC = 0x1950A86A20F9469CFC6C
# What zipfile raises for an entry that is not as it was written; a flipped bit of a header can
# say that it is encrypted or compressed (RuntimeError).
_DAMAGE = (KeyError, zipfile.BadZipFile, EOFError, OSError, RuntimeError, zlib.error)


class _Storage(NamedTuple):
    dtype: np.dtype
    length: int
    read: object  # () -> bytes


class _Archive:
    """The entries of a zip container, under one folder whose name is any."""

    def __init__(self, path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, RuntimeError) as error:
            raise ValueError(f"{path} is truncated or corrupt ({error})") from None
        names = self._zip.namelist()
        roots = [name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(
                f"{path} is a zip file, but not of PyTorch. A .keras file: keras.saving.load_model"
            )
        self._root = roots[0]
        self.sizes = {
            info.filename.removeprefix(self._root): info.file_size for info in self._zip.infolist()
        }

    def read(self, name):
        """The bytes of an entry, checked by its checksum."""
        try:
            return self._zip.read(self._root + name)
        except _DAMAGE as error:
            raise ValueError(f"{self.path} is corrupt: {self._root + name}: {error}") from error


def read(path):
    """What a .pt file of either container holds, with `Stored` for tensors.

    Raises:
        ValueError: for anything but that.
    """
    return read_zip(path) if _is_zip(path) else read_legacy(path)


def note(path, name):
    """The text that `write` put there under that name, or None."""
    archive = _Archive(path) if _is_zip(path) else None
    if archive is None or name not in archive.sizes:
        return None
    return archive.read(name).decode("utf-8", "replace")


def _is_zip(path):
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def read_zip(path):
    """What a .pt file of the zip container holds, with `Stored` for tensors.

    Raises:
        ValueError: for anything but that.
    """
    archive = _Archive(path)
    if "byteorder" in archive.sizes and archive.read("byteorder") != b"little":
        raise ValueError(f"{path} was written on a big-endian machine, which is not supported")

    def storage(kind, key, length):
        dtype = np.dtype(pickles.STORAGES[kind])
        if archive.sizes.get(f"data/{key}") != length * dtype.itemsize:
            raise ValueError(f"the storage {key} is missing or of another size")
        return _Storage(dtype, length, lambda: archive.read(f"data/{key}"))

    return _described(path, lambda: pickles.read(io.BytesIO(archive.read("data.pkl"))), storage)


def read_legacy(path):
    """What a .pt file of the legacy container holds, with `Stored` for tensors.

    Raises:
        ValueError: for anything but that.
    """
    places = {}

    def content():
        with open(path, "rb") as file:
            if pickles.read(file) != MAGIC:
                raise ValueError("it is a pickle, but not of PyTorch")
            pickles.read(file)  # the version of the container
            if not pickles.read(file).get("little_endian"):
                raise ValueError("it was written on a big-endian machine")
            value = pickles.read(file)
            _place(file, pickles.read(file), _storage_kinds(value), places)
        return value

    def storage(kind, key, length):
        dtype = np.dtype(pickles.STORAGES[kind])
        if places[key][1] != length:
            raise ValueError(f"the storage {key} is of another size")
        size = length * dtype.itemsize
        return _Storage(dtype, length, lambda: _read_at(path, places[key][0], size))

    return _described(path, content, storage)


def _storage_kinds(value):
    """{key: name of the storage's type} of all views in a nest of dicts and lists."""
    kinds = {}

    def visit(view):
        _, kind, key, *_ = view.storage
        kinds[key] = kind.name

    _map_views(value, visit)
    return kinds


def _place(file, keys, kinds, places):
    """Find where each storage starts and how many numbers it has."""
    end = os.fstat(file.fileno()).st_size
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        places[key] = (file.tell(), length)
        after = file.tell() + length * np.dtype(pickles.STORAGES[kinds[key]]).itemsize
        if after > end:
            raise ValueError("it ends before its tensors do")
        file.seek(after)


def _read_at(path, start, size):
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def _described(path, content, storage):
    """The content with every view made a `Stored`, and every fault made a ValueError."""
    try:
        return _map_views(content(), lambda view: _stored(view, storage))
    except pickles.RefusedError as error:
        raise ValueError(f"{path} is refused: {error}. Nothing of it was run") from None
    except Exception as error:  # bytes that are no pickle can break it anywhere
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error


def _map_views(value, function):
    """The nest of dicts and lists with the function's result for each view."""
    done = {}  # by identity: a few nested lists that hold the next one twice are an endless tree

    def mapped(item):
        if id(item) not in done:
            done[id(item)] = new(item)
        return done[id(item)]

    def new(item):
        if isinstance(item, pickles.View):
            return function(item)
        if isinstance(item, dict):
            return {key: mapped(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return [mapped(part) for part in item]
        return item

    return mapped(value)


def _stored(view, storage):
    _, kind, key, _, length, *_ = view.storage
    shape, strides = tuple(view.shape), tuple(view.strides)
    numbers = (view.offset, length, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor's shape makes no sense")
    last = view.offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    if math.prod(shape) > length or (math.prod(shape) and last >= length):
        raise ValueError("a tensor reaches beyond its storage")
    source = storage(kind.name, key, length)

    def read():
        flat = np.frombuffer(source.read(), source.dtype)
        steps = [stride * source.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[view.offset :], shape, steps, writeable=False)

    return Stored(shape, read)


def write(tensors, path, notes=None, names=()):
    """Write a state dict as a .pt file, one tensor after the other.

    Args:
        tensors: {name: `Stored`}; they are written as float32.
        path: of the file; one that is there is replaced when the new one is whole.
        notes: {name: text}, entries of their own, which PyTorch passes over.
        names: of a checkpoint, under each of which the state dict stands, its numbers written
            once; none: it is the content.
    """
    records = {
        "data.pkl": lambda: pickles.write({n: t.shape for n, t in tensors.items()}, names),
        "byteorder": lambda: b"little",
        **{f"data/{i}": _numbers(tensor) for i, tensor in enumerate(tensors.values())},
        "version": lambda: b"3\n",
        **{name: text.encode for name, text in (notes or {}).items()},
    }
    with beside(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            # A fixed date: the same weights make the same bytes.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data())


def _numbers(tensor):
    return lambda: np.ascontiguousarray(tensor.read(), "<f4").data.cast("B")
