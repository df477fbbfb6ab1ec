"""Types of the options, and a parser that answers a mistake with one line."""

import argparse
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from keras_dit.registry import nearest_first

__all__ = [
    "Parser",
    "add_devices",
    "amount",
    "blocks",
    "count",
    "finite",
    "natural",
    "numbers",
    "one_of",
    "positive_number",
    "seeds",
    "shape",
    "share",
    "size",
    "sizes",
    "spelled",
    "whole_share",
]


class Parser(argparse.ArgumentParser):
    """A parser whose help fits 80 columns, and whose errors are one line."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(**kwargs)

    def error(self, message):
        """Print the one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def spellings(self) -> dict[str, str]:
        """How a person writes each option, by the name of its value."""
        options = [action for action in self._actions if action.option_strings]
        return {action.dest: action.option_strings[0] for action in options}


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog, **kwargs):
        super().__init__(prog, max_help_position=26, width=79, **kwargs)

    def add_argument(self, action):
        super().add_argument(action)
        if action.nargs == argparse.PARSER:  # commands, of which argparse forgets the indent
            self._action_max_length += 2

    def _split_lines(self, text, width):
        # Names such as dpmpp-2m are not broken at their hyphens.
        return textwrap.wrap(text, width, break_on_hyphens=False)


def spelled(name: str) -> str:
    """The option of a setting: image_size -> --image-size."""
    return "--" + {"source": "from", "folder": "run"}.get(name, name).replace("_", "-")


def _number(text, kind, allowed, description):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not allowed(value):  # every comparison with NaN is false
        raise argparse.ArgumentTypeError(f"must be {description}, not {text!r}")
    return value


def count(text: str) -> int:
    """An integer of 1 or more."""
    return _number(text, int, lambda n: n >= 1, "an integer of 1 or more")


def natural(text: str) -> int:
    """An integer of 0 or more."""
    return _number(text, int, lambda n: n >= 0, "an integer of 0 or more")


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    return _number(text, float, math.isfinite, "a finite number")


def positive_number(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda x: 0 < x < math.inf, "a finite number above 0")


def amount(text: str) -> float:
    """A finite number of 0 or more."""
    return _number(text, float, lambda x: 0 <= x < math.inf, "a finite number of 0 or more")


def share(text: str) -> float:
    """A number of at least 0 and below 1."""
    return _number(text, float, lambda x: 0 <= x < 1, "a share of at least 0 and below 1")


def whole_share(text: str) -> float:
    """A number of at least 0 and at most 1."""
    return _number(text, float, lambda x: 0 <= x <= 1, "a share of at least 0 and at most 1")


def seeds(text: str) -> int | list[int]:
    """One seed, or several with commas."""
    found = [natural(part) for part in text.split(",")]
    return found if len(found) > 1 else found[0]


def add_devices(group) -> None:
    """The option of a command whose work is shared by processes, each with a device."""
    words = "make them on so many, each with a process of its own; default: 1"
    group.add_argument("--devices", type=count, metavar="N", help=words)
    group.set_defaults(shares=True)


def numbers(text: str) -> float | list[float]:
    """One number above 0, or several with commas."""
    found = [positive_number(part) for part in text.split(",")]
    return found if len(found) > 1 else found[0]


def blocks(text: str) -> tuple[int, int]:
    """Numbers of blocks of two networks, such as 2:4."""
    try:
        first, second = map(count, text.split(":"))
    except (ValueError, argparse.ArgumentTypeError):
        words = f"must be numbers of blocks of the two networks such as 2:4, not {text!r}"
        raise argparse.ArgumentTypeError(words) from None
    return first, second


def size(text: str) -> int | tuple[int, int]:
    """A side such as 64, or height x width such as 64x96."""
    try:
        sides = tuple(count(part) for part in text.lower().split("x"))
    except argparse.ArgumentTypeError:
        sides = ()
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f"must be a side such as 64, or height x width such as 64x96, not {text!r}"
        )
    return (sides[0], sides[1]) if len(sides) == 2 else sides[0]


def sizes(text: str) -> int | tuple[int, int] | list[tuple[int, int]]:
    """One `size`, or several with commas, each then height and width."""
    found = [size(part) for part in text.split(",")]
    if len(found) == 1:
        return found[0]
    return [(one, one) if isinstance(one, int) else one for one in found]


def shape(text: str) -> tuple[int, ...]:
    """(H, W, C) of an option like 32,32,4."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be like 32,32,4, not {text!r}") from None


def one_of(names: Iterable[str]) -> Callable[[str], Any]:
    """One of these names. A wrong one gets them all, the nearest first."""

    def name(text):
        if text in names:
            return text
        choices = ", ".join(nearest_first(text, names))
        raise argparse.ArgumentTypeError(f"must be one of {choices}, not {text!r}")

    return name
