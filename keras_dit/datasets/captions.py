"""Captions of the images in a folder, as Hugging Face's imagefolder and trainers of LoRA have them.

FOLDER/metadata.jsonl     {"file_name": "a/1.png", "text": "a red three"} in each line
FOLDER/metadata.csv       columns file_name and text
FOLDER/1.txt              beside FOLDER/1.png

A column "caption" or "prompt" is taken as "text" is.
"""

import csv
import json
import os
import pathlib
from collections.abc import Sequence

__all__ = ["caption_files", "captions_of", "metadata_in"]

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "caption", "prompt")


def metadata_in(folder: str | os.PathLike) -> pathlib.Path | None:
    """The file with captions in a folder of images, or None."""
    places = (pathlib.Path(folder) / name for name in METADATA)
    return next((place for place in places if place.is_file()), None)


def caption_files(folder: str | os.PathLike, paths: Sequence[str]) -> list[pathlib.Path]:
    """The files that hold the captions of images in a folder."""
    found = metadata_in(folder)
    return [_text_file(path) for path in paths] if found is None else [found]


def captions_of(folder: str | os.PathLike, paths: Sequence[str]) -> list[str] | None:
    """The captions of images, "" where there is none.

    Args:
        folder: in which metadata.jsonl or metadata.csv may be.
        paths: of the images, which are in it or deeper.

    Returns:
        A list of strings, or None if there is no caption at all.

    Raises:
        ValueError: if metadata cannot be understood; it names the file and the line.
    """
    found = metadata_in(folder)
    if found is None:
        captions = [_beside(path) for path in paths]
        return captions if any(captions) else None
    texts = _jsonl(found) if found.suffix == ".jsonl" else _csv(found)
    if texts is None:
        return None
    return [texts.get(os.path.relpath(path, folder).replace(os.sep, "/"), "") for path in paths]


def _text_file(path):
    return pathlib.Path(path).with_suffix(".txt")


def _beside(path):
    file = _text_file(path)
    return _read(file).strip() if file.is_file() else ""


def _read(file):
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be a text in UTF-8: {error}") from None


def _jsonl(file):
    rows = []
    for number, line in enumerate(_read(file).splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is no JSON: {error}") from None
            rows.append((number, row if isinstance(row, dict) else {}))
    return _by_name(file, rows)


def _csv(file):
    rows = csv.DictReader(_read(file).splitlines())
    return _by_name(file, [(number, row) for number, row in enumerate(rows, 2)])


def _by_name(file, rows):
    """{file_name: caption}; None where no column has captions, but other facts."""
    columns = {name for _, row in rows for name in row if name is not None}
    column = next((name for name in COLUMNS if name in columns), None)
    if "file_name" not in columns:
        raise ValueError(
            f"{file} must have a column file_name, and one of {', '.join(COLUMNS)}. "
            f"Received: {', '.join(sorted(columns)) or 'no columns'}"
        )
    if column is None:
        return None
    texts = {}
    for number, row in rows:
        name, text = row.get("file_name"), row.get(column) or ""
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"{file}, line {number}: file_name and {column} must be strings")
        texts[name.removeprefix("./")] = text.strip()
    return texts
