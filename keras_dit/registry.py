"""Things by name: the one place for what a name may be and what a wrong one is told."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["Opener", "Openers", "Registry", "nearest_first", "one_of"]


def nearest_first(name: Any, names: Iterable[str]) -> list[str]:
    """All the names, those that look most like `name` first."""
    names = list(names)
    nearest = difflib.get_close_matches(str(name), names, n=3, cutoff=0.0)
    return nearest + [other for other in names if other not in nearest]


def one_of(argument: str, value: Any, names: Iterable[str]) -> Any:
    """The value, if it is one of the names.

    Args:
        argument: what the error calls it.
        value: what came.
        names: what is allowed.

    Raises:
        ValueError: if it is none of them; it lists them, the nearest first.
    """
    names = list(names)
    if value not in names:
        allowed = ", ".join(nearest_first(value, names))
        raise ValueError(f"{argument} must be one of {allowed}. Received: {argument}={value!r}")
    return value


class Registry(dict):
    """Things by name, in the order in which they were registered: a dict that knows its errors.

    Lists of names (a command's `--help`, an error) are made from it, so that what is registered
    is known everywhere.

    Args:
        argument: what errors call a name, such as "solver".
        things: {name: thing} to begin with.

    Example:

    ```python
    shapes = Registry("shape", {"square": Square()})
    shapes.register("circle", Circle())
    shapes.named("circel")  # ValueError: shape must be one of circle, square. Received: ...
    ```
    """

    def __init__(self, argument: str, things: Mapping[str, Any] = MappingProxyType({})):
        super().__init__(things)
        self.argument = argument

    def register(self, name: str, thing: Any) -> Any:
        """Add a thing; returns it.

        Raises:
            ValueError: if the name is taken by another thing.
        """
        if self.setdefault(name, thing) is not thing:
            raise ValueError(f"{self.argument} {name!r} is taken by {self[name]!r}")
        return thing

    def named(self, name: str) -> Any:
        """The thing of that name.

        Raises:
            ValueError: if there is none; it lists the valid names, the nearest first.
        """
        return self[one_of(self.argument, name, self)]


class Opener(NamedTuple):
    """What else a preset may be, beside a name: something that holds weights.

    Attributes:
        detect: preset -> whether it is such a thing.
        open: (preset, **overrides) -> what is in it.
    """

    detect: Callable[[Any], bool]
    open: Callable[..., Any]


class Openers(Registry):
    """What rooms above can open, for a `from_preset` below that asks each of them."""

    def of(self, preset: Any) -> Callable[..., Any] | None:
        """What opens a preset that holds weights; None for one that does not."""
        return next((each.open for each in self.values() if each.detect(preset)), None)
