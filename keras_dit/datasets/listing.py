"""Which files of a folder are images, of which classes, and which are left out.

FOLDER/CLASS/**/IMAGE.png     a folder for each class, in the order of their names
FOLDER/IMAGE.png              no classes
FOLDER/train/..., FOLDER/val/...     either of these, for training and for validation

With metadata.jsonl or metadata.csv (`datasets.captions`) images have captions, and folders are no
classes. A .txt beside each image is its caption where there are no classes.
"""

import collections
import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_dit import images
from keras_dit.datasets.captions import caption_files, captions_of, metadata_in

__all__ = ["Listing", "list_folder"]

SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class Listing(NamedTuple):
    """paths: of the images. class_names and labels (N,): None where there are no classes.

    captions: of the images, or None.
    """

    paths: list[str]
    class_names: tuple[str, ...] | None
    labels: np.ndarray | None
    captions: list[str] | None = None


class LeftOut:
    """What is not read of a folder, by reason, so that it is counted and named once."""

    def __init__(self, folder):
        self.folder, self.paths = folder, collections.defaultdict(list)

    def add(self, path, noun, detail=""):
        self.paths[noun, detail].append(os.path.relpath(path, self.folder))

    def forget(self, paths):
        """Files that are read after all."""
        paths = {os.path.relpath(path, self.folder) for path in paths}
        for reason, found in list(self.paths.items()):
            self.paths[reason] = [path for path in found if path not in paths]
            if not self.paths[reason]:
                del self.paths[reason]

    def __str__(self):
        return "left out: " + "; ".join(
            f"{len(paths)} {noun}{'s' if len(paths) > 1 else ''}{detail} "
            f"({min(paths)}{', ...' if len(paths) > 1 else ''})"
            for (noun, detail), paths in sorted(self.paths.items())
        )


def list_folder(
    folder: str | os.PathLike, labelled: bool = True
) -> tuple[Listing, Listing | None, tuple[str, ...]]:
    """List the images of a folder without opening one.

    Args:
        folder: as in the module's docstring. Symbolic links are followed.
        labelled: False: all images, deeper ones too, without classes.

    Returns:
        the listing for training; the one for validation, or None; and what there is to say about
        how the folder was understood and what was left out.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there are no images, or it is unclear which are meant.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    left_out = LeftOut(folder)
    splits = _splits(folder)
    if splits:
        train, validation = _list_splits(folder, splits, labelled, left_out)
        roles = {"train": "for training", "val": "for validation", "test": "not used"}
        said = ", ".join(f"{place.name}/ ({roles[kind]})" for kind, place in splits.items())
        notes = [f"{folder} is taken as splits, not as classes: {said}"]
    else:
        train, validation, notes = _listing(folder, labelled, left_out), None, []
    for listing in (train, validation):
        notes += _notes_of_captions(folder, listing)
    if left_out.paths:
        notes.append(f"{folder}: {left_out}")
    return train, validation, tuple(notes)


def _notes_of_captions(folder, listing):
    empty = 0 if listing is None or listing.captions is None else listing.captions.count("")
    return [f"{folder}: {empty} images have no caption: nothing is said of them"] if empty else []


def _is_hidden(name):
    return name.startswith(".") or name.lower() in SYSTEM


def _splits(folder):
    """{"train": path, ...} where all the folders have names of splits, else nothing."""
    kinds = {name: kind for kind, names in SPLITS.items() for name in names}
    places = [place for place in sorted(folder.iterdir()) if place.is_dir()]
    places = [place for place in places if not _is_hidden(place.name)]
    splits = {kinds.get(place.name.lower()): place for place in places}
    if None in splits:
        return {}
    if len(splits) < len(places) or (places and "train" not in splits):
        raise ValueError(
            f"{folder} holds {', '.join(f'{place.name}/' for place in places)}, which are the "
            f"names of splits, without one train/: give the folder to train on, such as {places[0]}"
        )
    return splits


def _list_splits(folder, splits, labelled, left_out):
    for path in _entries(folder, left_out)[1]:
        left_out.add(path, "image", " in no split")
    train = _listing(splits["train"], labelled, left_out)
    validation = _listing(splits["val"], labelled, left_out) if "val" in splits else None
    if validation is not None and validation.class_names != train.class_names:
        here, there = (set(listing.class_names or ()) for listing in (train, validation))
        raise ValueError(
            f"{splits['train']} and {splits['val']} must have the same folders of classes, but "
            f"only one of them has {', '.join(sorted(here ^ there)[:5])}. Make them the same, or "
            f"give {splits['train']} alone"
        )
    return train, validation


def _listing(folder, labelled, left_out):
    found = _without_captions(folder, labelled and metadata_in(folder) is None, left_out)
    captions = None if found.class_names else captions_of(folder, found.paths)
    if captions is not None:
        left_out.forget(caption_files(folder, found.paths))
    return found._replace(captions=captions)


def _without_captions(folder, labelled, left_out):
    if not labelled:
        return Listing(_found(_images_under(folder, left_out), folder, left_out), None, None)
    places, loose = _entries(folder, left_out)
    classes = {place.name: _images_under(place, left_out) for place in places}
    full = [name for name, paths in classes.items() if paths]
    if loose and not full:
        return Listing(loose, None, None)
    if loose and len(full) == 1:
        raise ValueError(
            f"{folder} holds {len(loose)} images beside one folder of images, {full[0]}/: it is "
            "unclear whether there are classes. Move them, so that all images are in it or in "
            "folders of classes, or leave the classes out (labels=False)"
        )
    for path in loose:
        left_out.add(path, "image", " in no class")
    return _of_classes(classes, folder, left_out)


def _of_classes(classes, folder, left_out):
    paths = _found([path for found in classes.values() for path in found], folder, left_out)
    for name, found in classes.items():
        _found(found, folder / name, left_out)
    counts = [len(found) for found in classes.values()]
    return Listing(paths, tuple(classes), np.repeat(np.arange(len(counts), dtype="int32"), counts))


def _found(paths, folder, left_out):
    """The paths, if there are any."""
    if not paths:
        what = f"no image in {folder}; {left_out}" if left_out.paths else f"{folder} is empty"
        raise ValueError(f"{what}; expected FOLDER/CLASS/IMAGE.png, or FOLDER/IMAGE.png")
    return paths


def _entries(folder, left_out):
    """The visible folders in a folder, and the images that lie there, both sorted."""
    places, names = [], []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not _is_hidden(entry.name):
            places.append(entry)
        elif entry.is_dir():
            left_out.add(entry, "hidden folder")
        else:
            names.append(entry.name)
    return places, _images_among(str(folder), names, left_out)


def _images_under(folder, left_out):
    """The images in a folder and the folders in it, sorted by their paths."""
    suffixes = images.suffixes()
    found, top = [], os.path.realpath(folder)
    # A link up to a folder above, or to one that was read, would read the same images again.
    seen = {str(parent) for parent in pathlib.Path(top).parents}

    def unreadable(error):
        left_out.add(error.filename, "folder", " not readable")

    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            left_out.add(place, "folder", " read already")
            folders.clear()
            continue
        seen.add(real)
        for name in filter(_is_hidden, folders):
            left_out.add(os.path.join(place, name), "hidden folder")
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += _images_among(place, names, left_out, suffixes)
    return sorted(found)


def _images_among(place, names, left_out, suffixes=None):
    """The paths of those names in a folder that are images, sorted."""
    suffixes = suffixes or images.suffixes()
    found = []
    for name in sorted(names):
        path, suffix = os.path.join(place, name), os.path.splitext(name)[1].lower()
        if _is_hidden(name):
            left_out.add(path, "hidden file")
        elif not os.path.isfile(path):
            left_out.add(path, "broken link" if os.path.islink(path) else "special file")
        elif suffix not in suffixes:
            left_out.add(path, f"{suffix} file".strip(), "" if suffix else " without a suffix")
        else:
            found.append(path)
    return found
