"""What a block is given beside its tokens."""

from typing import Any, NamedTuple


class Context(NamedTuple):
    """What the blocks of a network are steered by.

    Attributes:
        vector: (B, D), summed over the time and all conditions; it steers the norms. None: nothing.
        tokens: (B, L, D), joined over all conditions, to be attended to; None: there are none.
        mask: bool (B, L), which of the tokens are there; None: all of them.

    Example:

    >>> Context(vector=np.zeros((2, 8))).tokens is None
    True
    """

    vector: Any = None
    tokens: Any = None
    mask: Any = None


def as_context(value: Any) -> Context:
    """A `Context`, also of a plain vector, of None, and of the lists that a `.keras` file holds."""
    if isinstance(value, Context):
        return value
    if isinstance(value, (tuple, list)) and not any(isinstance(part, int) for part in value):
        return Context(*value)
    return Context(value)
