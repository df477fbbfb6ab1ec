"""The folders of diffusers: config.json and a file of tensors, its shards, or a .bin file."""

import json
import pathlib
import re
from typing import Any

from keras_dit.files import beside
from keras_dit.weights.files.reading import read
from keras_dit.weights.files.stored import Stored, some


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a .json file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds anything else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no model at {file.parent}: it is no folder of diffusers: no {file.name}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file} is corrupt: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is corrupt: it holds a {type(value).__name__}")
    return value


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Write an object as a .json file."""
    with beside(path) as new:
        new.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tensors(folder: pathlib.Path, name: str) -> tuple[dict[str, Stored], pathlib.Path | None]:
    """{name: `Stored`} of a folder's one file, and that file; or of its shards, and None.

    Args:
        folder: where they are.
        name: of the file, without its suffix.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for an index that is not of its shards, or names files outside of the folder.
    """
    for suffix in (".safetensors", ".bin"):
        file = folder / (name + suffix)
        if file.is_file():
            return read(file), file
        index = folder / f"{name}{suffix}.index.json"
        if index.is_file():
            return _sharded(index), None
    raise FileNotFoundError(f"{folder} has no {name}.safetensors, nor .bin, nor an index of shards")


def _sharded(index):
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{index} is corrupt: it has no weight_map")
    for shard in places.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*", shard):
            raise ValueError(f"{index} is refused: it names a file outside of its folder: {shard}")
    shards = {shard: read(index.parent / shard) for shard in sorted({*places.values()})}
    absent = [name for name, shard in places.items() if name not in shards[shard]]
    if absent:
        raise ValueError(f"{index} names tensors that its shards do not hold: {some(absent)}")
    return {name: shards[shard][name] for name, shard in places.items()}
