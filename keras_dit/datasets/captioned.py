"""Captioned digits: coloured digits on a canvas, each image with a caption that says what it shows.

    caption = thing | thing PLACE thing,   thing = "a COLOUR DIGIT"

such as "a green five" or "a red three above a blue seven". A caption can be read back into the
`Scene` behind it, so that a program counts whether an image shows what was asked.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_dit import draws
from keras_dit.datasets.arrays import load_digits
from keras_dit.datasets.parts import Contents

__all__ = ["COLOURS", "DIGITS", "HELD_OUT", "PLACES", "Scene", "Thing", "captioned_digits",
           "contents", "draw_scene", "random_scenes"]  # fmt: skip

SIZE, SIDE, STEP = 32, 8, 8  # of the canvas, of a digit, from a place to the next; pixels
FREE = (SIZE - SIDE) // STEP  # steps between the first place of a digit and the last
APART = SIDE // STEP + 1  # steps between two digits, at least
COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 1.0, 0.1),
    "blue": (0.2, 0.3, 1.0),
    "yellow": (1.0, 1.0, 0.1),
    "purple": (1.0, 0.1, 1.0),
    "white": (1.0, 1.0, 1.0),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# From the first thing to the second: down, right.
PLACES = {"above": (1, 0), "below": (-1, 0), "left of": (0, 1), "right of": (0, -1)}
# One digit of each colour: a network that draws them has put together what it never saw together.
HELD_OUT = (("red", 3), ("green", 5), ("blue", 7), ("yellow", 0), ("purple", 8), ("white", 2))


class Thing(NamedTuple):
    """A coloured digit."""

    colour: str
    digit: int

    def __str__(self) -> str:
        return f"a {self.colour} {DIGITS[self.digit]}"


class Scene(NamedTuple):
    """What an image shows: one thing, or one and its place beside another.

    `str(scene)` is its caption, `Scene.read(caption)` the scene.

    Example:

    >>> scene = Scene.read("a red three above a blue seven")
    >>> scene.place, scene.things[1], str(scene)
    ('above', Thing(colour='blue', digit=7), 'a red three above a blue seven')
    """

    things: tuple[Thing, ...]
    place: str | None = None

    def __str__(self) -> str:
        return f" {self.place} ".join(map(str, self.things))

    @classmethod
    def read(cls, caption: str) -> "Scene":
        """The scene of a caption.

        Raises:
            ValueError: if the caption is not of the grammar.
        """
        thing = rf"a ({'|'.join(COLOURS)}) ({'|'.join(DIGITS)})"
        found = re.fullmatch(rf"{thing}(?: ({'|'.join(PLACES)}) {thing})?", caption)
        if found is None:
            raise ValueError(
                'a caption must be like "a green five" or "a red three above a blue seven", of '
                f"the colours {', '.join(COLOURS)} and the places {', '.join(PLACES)}. "
                f"Received: {caption!r}"
            )
        colour, digit, place, *other = found.groups()
        things = [(colour, digit)] if place is None else [(colour, digit), other]
        return cls(tuple(Thing(c, DIGITS.index(d)) for c, d in things), place)


def random_scenes(
    count: int, seed: int = 0, without: Iterable = (), among: Sequence | None = None
) -> list[Scene]:
    """Scenes drawn at random: one of four has one thing, the others two.

    Args:
        count: how many.
        seed: of the draw.
        without: pairs (colour, digit) that no thing is.
        among: pairs that the first thing of each is one of; None: any.
    """
    every = [Thing(*pair) for pair in itertools.product(COLOURS, range(10))]
    allowed = [thing for thing in every if thing not in set(map(tuple, without))]
    first = allowed if among is None else [Thing(*pair) for pair in among]
    scenes = []
    for index in range(count):
        # By the raw numbers of the generator, which are the same in every version of numpy.
        kind, one, other, place, turned = draws.words(seed, index, 5)
        things = (first[one % len(first)], allowed[other % len(allowed)])
        if kind % 4 == 0:
            scenes.append(Scene(things[:1]))
        else:
            things = things[::-1] if turned % 2 else things
            scenes.append(Scene(things, list(PLACES)[place % 4]))
    return scenes


def draw_scene(scene: Scene, numbers: Sequence[int], digits: dict) -> np.ndarray:
    """The image of a scene, uint8 (32, 32, 3), on black.

    Args:
        scene: what to draw.
        numbers: four integers at random, which choose the handwriting and the exact places.
        digits: by number, the images (n, 8, 8) of that digit in [0, 1].
    """
    canvas = np.zeros((SIZE, SIZE, 3), "float32")
    for thing, corner, number in zip(scene.things, _corners(scene, *numbers[:2]), numbers[2:]):
        images = digits[thing.digit]
        image = images[number % len(images)][..., None] * np.array(COLOURS[thing.colour], "float32")
        canvas[tuple(slice(start, start + SIDE) for start in corner)] = image
    return (255 * canvas + 0.5).astype("uint8")


def _corners(scene, along, across):
    """The upper left corner of each thing: apart in one direction, level in the other."""
    level = STEP * (across % (FREE + 1))
    if scene.place is None:
        return [(STEP * (along % (FREE + 1)), level)]
    start = along % (FREE - APART + 1)
    distance = APART + along // 64 % (FREE - APART - start + 1)
    corners = [(STEP * start, level), (STEP * (start + distance), level)]
    down, right = PLACES[scene.place]
    corners = corners if down + right > 0 else corners[::-1]
    return corners if down else [corner[::-1] for corner in corners]


def captioned_digits(
    count: int = 20000, seed: int = 0, held_out: Iterable = HELD_OUT
) -> tuple[np.ndarray, list[str]]:
    """Coloured digits of one or two at places on a canvas, made from the embedded digits.

    Args:
        count: how many images.
        seed: of what is drawn; the same seed gives the same images everywhere.
        held_out: pairs (colour, digit) that no image shows, so that it can be seen what a network
            makes of them.

    Returns:
        `(images, captions)`: (count, 32, 32, 3) uint8; a list of `count` strings, of each of which
        `Scene.read` gives the colours, digits and the place.

    Example:

    >>> import keras_dit
    >>> images, captions = keras_dit.datasets.captioned_digits(100)
    >>> images.shape, captions[0]
    ((100, 32, 32, 3), 'a green zero')
    """
    scenes = random_scenes(count, seed, held_out)
    pixels, labels = load_digits()
    grey = (pixels[..., 0] + 1) / 2
    digits = {number: grey[labels == number] for number in range(10)}
    images = np.zeros((count, SIZE, SIZE, 3), "uint8")
    for index, scene in enumerate(scenes):
        images[index] = draw_scene(scene, draws.words(seed, index, 4, stream=1), digits)
    return images, list(map(str, scenes))


def contents() -> Contents:
    """The captioned digits as `load` has them."""
    images, captions = captioned_digits()
    return Contents(images, conditions={"text": captions})
