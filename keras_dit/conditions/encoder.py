"""What makes tokens of texts."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dit.conditions.tokens import Sequence as Embeddings

__all__ = ["TextEncoder"]


class TextEncoder(keras.layers.Layer):
    """Texts -> arrays on the host -> tokens. Subclasses give `read`, `nothing`, `build`, `call`.

    Attributes:
        hidden_size: width D of the tokens; where it is None a network sets it.
    """

    hidden_size: int | None = None

    @property
    def facts(self) -> str:
        """How it reads texts, in words, for people."""
        return type(self).__name__

    def read(self, texts: Sequence[str], length: int) -> Any:
        """Texts on the host: a nest of numpy arrays (n, length, ...).

        Raises:
            ValueError: for a text of more than `length` tokens.
        """
        raise NotImplementedError

    def nothing(self, count: int, length: int) -> Any:
        """What `read` gives of so many empty texts: nothing is there."""
        raise NotImplementedError

    def build(self, length: int) -> None:
        """Make what weights there are, for texts of so many tokens."""
        raise NotImplementedError

    def call(self, values: Any) -> Embeddings:
        """Tokens (B, L, D) and which of them are there, bool (B, L), of what `read` gives."""
        raise NotImplementedError

    def check_length(self, text: str, found: int, length: int) -> None:
        """Raise ValueError if a text has more tokens than there is place for."""
        if found > length:
            raise ValueError(
                f"a text must be of at most {length} tokens here: say it in fewer words, or train "
                f"with Text(length={found}). Received: {found} tokens, {text[:60]!r}"
            )
