"""A checkpoint's file: arrays by name and facts about them, recognised when damaged.

It is a safetensors file, which any of that format's libraries opens: the length of the header,
the header in JSON, the arrays. Its last array, `sha256`, is the digest of all bytes before it.

Reference:
    https://github.com/huggingface/safetensors, section Format.
"""

import hashlib
import json
import os

import ml_dtypes
import numpy as np

from keras_dit.files import beside

DTYPES = {
    "F64": np.dtype("float64"),
    "I64": np.dtype("int64"),
    "U64": np.dtype("uint64"),
    "F32": np.dtype("float32"),
    "I32": np.dtype("int32"),
    "U32": np.dtype("uint32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I16": np.dtype("int16"),
    "U16": np.dtype("uint16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DIGEST, _DIGEST_SIZE = "sha256", 32


class CorruptCheckpointError(OSError):
    """The file is not what was written."""

    def __init__(self, path):
        super().__init__(f"corrupt checkpoint: {path}")
        self.path = path


def write(path, arrays, facts):
    """Write a checkpoint so that at any moment the file is the old one or the new one, whole.

    Args:
        path: of the file, `.safetensors`.
        arrays: numpy arrays by name.
        facts: what JSON can hold, by name.

    Raises:
        OSError: if that fails, with a full disk for instance. The file is then as it was.
    """
    digest = hashlib.sha256()
    with beside(path, "the checkpoint ") as new, open(new, "wb") as file:
        for part in _parts(arrays, facts):
            file.write(part)
            digest.update(part)
        file.write(digest.digest())


def _parts(arrays, facts):
    """The bytes of the file up to the digest: length of the header, header, arrays."""
    # The widest first keeps all aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))
    header = {"__metadata__": {name: json.dumps(fact) for name, fact in facts.items()}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = _entry(_NAMES[array.dtype], array.shape, start, end)
    header[_DIGEST] = _entry("U8", (_DIGEST_SIZE,), end, end + _DIGEST_SIZE)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        yield np.ascontiguousarray(array).reshape(-1).view("uint8").data


def _entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def read(path):
    """The arrays, mapped from the file, and the facts of a checkpoint.

    Raises:
        CorruptCheckpointError: if a byte of it is not as it was written.
        FileNotFoundError: if there is none.
    """
    if os.path.getsize(path) < 8 + _DIGEST_SIZE:
        raise CorruptCheckpointError(path)
    data = np.memmap(path, "uint8", mode="r")
    if hashlib.sha256(data[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:].tobytes():
        raise CorruptCheckpointError(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    facts = {name: json.loads(text) for name, text in header.pop("__metadata__").items()}
    del header[_DIGEST]
    return {name: _array(data[start:], entry) for name, entry in header.items()}, facts


def _array(data, entry):
    start, end = entry["data_offsets"]
    return data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
