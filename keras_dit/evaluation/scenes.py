"""Whether images of captioned digits show what was asked, counted by a program.

Things are parts of an image that rows or columns without a bright pixel keep apart. A thing's
colour is the one whose direction is nearest to that of its sum of pixels; its digit is that of the
nearest of the embedded digits, each moved to the corner of its box.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_dit.datasets.arrays import load_digits
from keras_dit.datasets.captioned import COLOURS, PLACES, SIDE, Scene, Thing

__all__ = ["Drawn", "Verdict", "count_scenes", "find_things", "judge_scene"]

BRIGHT = 0.35  # of a pixel, from which on it belongs to a thing
NEIGHBOURS = 3


class Drawn(NamedTuple):
    """A thing as it was found, with the middle of its box, (row, column)."""

    thing: Thing
    middle: tuple[float, float]


class Verdict(NamedTuple):
    """What of an image is as its caption says: of all things, and that none is too many."""

    colour: bool
    digit: bool
    place: bool


def find_things(image: np.ndarray) -> list[Drawn]:
    """The coloured digits in an image.

    Args:
        image: (H, W, 3) in [−1, 1].

    Example:

    >>> from keras_dit.datasets import captioned_digits
    >>> images, captions = captioned_digits(8)
    >>> captions[4], [str(drawn.thing) for drawn in find_things(images[4] / 127.5 - 1)]
    ('a blue four left of a red eight', ['a blue four', 'a red eight'])
    """
    light = np.clip((np.asarray(image, "float64") + 1) / 2, 0, 1)
    bright = light.max(axis=-1) > BRIGHT
    boxes = [(slice(0, len(light)), columns) for columns in _runs(bright.any(axis=0))]
    if len(boxes) < 2:
        boxes = [(rows, slice(0, light.shape[1])) for rows in _runs(bright.any(axis=1))]
    return [_drawn(light[box], bright[box], box) for box in boxes]


def _runs(bright):
    """Slices of rows or columns with something in them; one that is empty parts nothing."""
    places = np.flatnonzero(bright)
    parts = np.split(places, np.flatnonzero(np.diff(places) > 2) + 1)
    return [slice(part[0], part[-1] + 1) for part in parts if len(part) > 1]


def _drawn(light, bright, box):
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    light = light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    total = light.sum(axis=(0, 1))
    directions = np.array(list(COLOURS.values()))
    alike = directions @ total / np.linalg.norm(directions, axis=1)
    colour = list(COLOURS)[int(np.argmax(alike))]
    middle = (box[0].start + rows.mean(), box[1].start + columns.mean())
    return Drawn(Thing(colour, _digit(light.max(axis=-1))), middle)


def _digit(grey):
    """The digit that most of the nearest embedded ones are."""
    known, labels = _known()
    distance = ((known - _cornered(grey)) ** 2).sum(axis=(1, 2))
    nearest = labels[np.argsort(distance, kind="stable")[:NEIGHBOURS]]
    return int(np.argmax(np.bincount(nearest, minlength=10)))


def _cornered(grey):
    """A thing in the upper left corner of a canvas that all of them fit."""
    canvas = np.zeros((SIDE + 2, SIDE + 2))
    cut = grey[: SIDE + 2, : SIDE + 2]
    canvas[: cut.shape[0], : cut.shape[1]] = cut
    return canvas


@functools.cache
def _known():
    images, labels = load_digits()
    cornered = []
    for grey in (images[..., 0] + 1) / 2:
        rows, columns = (np.flatnonzero((grey > BRIGHT).any(axis=axis)) for axis in (1, 0))
        cornered.append(_cornered(grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    return np.array(cornered), labels


def judge_scene(image: np.ndarray, scene: Scene) -> Verdict:
    """What of an image (H, W, 3) in [−1, 1] is as a scene says.

    Of several things each is taken for that one of the scene which it is most like.
    """
    found = find_things(image)
    if len(found) != len(scene.things):
        return Verdict(False, False, False)
    verdicts = [_compared(order, scene) for order in itertools.permutations(found)]
    return max(verdicts, key=sum)


def _compared(found, scene):
    things = [drawn.thing for drawn in found]
    colour = all(a.colour == b.colour for a, b in zip(things, scene.things))
    digit = all(a.digit == b.digit for a, b in zip(things, scene.things))
    if scene.place is None:
        return Verdict(colour, digit, True)
    way = np.subtract(found[1].middle, found[0].middle)  # from the first to the second
    along = way @ np.array(PLACES[scene.place])
    return Verdict(colour, digit, bool(along > abs(way).max() - 1e-9))


def count_scenes(images: np.ndarray, captions: Sequence[str]) -> dict[str, float]:
    """The shares of images that show what their captions say.

    Args:
        images: (N, H, W, 3) in [−1, 1].
        captions: of the grammar of `datasets.captioned_digits`.

    Returns:
        "colour", "digit", "place": shares of images in which it is right of all things; "all".

    Raises:
        ValueError: for a caption that is not of the grammar, or another number of captions.

    Example:

    >>> from keras_dit.datasets import captioned_digits
    >>> images, captions = captioned_digits(50)
    >>> count_scenes(images / 127.5 - 1, captions)["colour"]
    1.0
    """
    if len(images) != len(captions):
        raise ValueError(
            "captions must be one for each image. "
            f"Received: {len(captions)} captions for {len(images)} images"
        )
    verdicts = [judge_scene(image, Scene.read(caption)) for image, caption in zip(images, captions)]
    shares = {
        name: float(np.mean([v[i] for v in verdicts])) for i, name in enumerate(Verdict._fields)
    }
    return {**shares, "all": float(np.mean([all(v) for v in verdicts]))}
