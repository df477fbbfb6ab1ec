"""Free text."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_dit import backend
from keras_dit.conditions.base import Condition, Context
from keras_dit.conditions.encoder import TextEncoder
from keras_dit.conditions.words import WordEncoder
from keras_dit.layers.parts import copy_part, load_parts, save_part
from keras_dit.serialization import register

__all__ = ["Text"]


@register
class Text(Condition):
    """Free text -> tokens that the blocks attend to.

    The null value is the empty text, which has no tokens to attend to.

    Args:
        length: number L of tokens that a text has at most.
        encoder: what makes tokens of texts: a `WordEncoder`, which is trained with the network, or
            a `KerasHub` encoder, which is not; None: `WordEncoder()`, which spells all words.
        pooling: what makes one vector of the tokens, which steers the norms of all blocks, such as
            `layers.MeanPooling()`; None: the text is only attended to.
        hidden_size, dropout: as for every `Condition`.

    Call:
        what `check` gives of texts (B,) -> `Context` with tokens (B, L, D), a mask, and with a
        pooling a vector (B, D).

    Raises:
        ValueError: if length is below 1 or the encoder is none.

    Example:

    >>> captions = ["a red three above a blue seven", "a green five"]
    >>> text = Text(8, WordEncoder(words_of(captions), num_heads=2), hidden_size=8)
    >>> told = text(text.check(["a blue five", None]))
    >>> told.tokens.shape == (2, 8, 8), ops.convert_to_numpy(told.mask).sum(axis=1).tolist()
    (True, [3, 0])

    Reference:
        Saharia et al.: Photorealistic Text-to-Image Diffusion Models (2022), section 2.1.
    """

    gives_tokens = True

    def __init__(
        self,
        length: int = 64,
        encoder: TextEncoder | None = None,
        hidden_size: int | None = None,
        pooling: keras.Layer | None = None,
        **kwargs,
    ):
        super().__init__(hidden_size, **kwargs)
        if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 1:
            raise ValueError(f"length must be an integer of 1 or more. Received: length={length!r}")
        encoder = WordEncoder() if encoder is None else encoder
        if not isinstance(encoder, TextEncoder):
            raise ValueError(
                "encoder must be an object of a TextEncoder class, such as WordEncoder(). "
                f"Received: encoder={encoder!r}"
            )
        self.length = int(length)
        self.encoder = copy_part(encoder, "encoder", self, hidden_size=hidden_size)
        self.pooling = pooling and copy_part(pooling, "pooling", self)

    def build(self, input_shape: tuple | None = None) -> None:
        self.encoder.build(self.length)
        self.encoder.built = True
        if self.pooling is not None:
            self.pooling.build((None, self.length, self.hidden_size), (None, self.length))

    def check(self, values: Any, count: int | None = None) -> Any:
        """Texts as the encoder's arrays; None in a list and "" stand for the empty text.

        Values may be a list or an array of strings, or what this has given before.
        """
        if self._is_read(values):
            read = tree.map_structure(np.asarray, values)
            found = len(tree.flatten(read)[0])
        else:
            texts = [self._text(value) for value in _listed(values)]
            read, found = self._read(texts), len(texts)
        if count is not None and found != count:
            raise ValueError(f"{self.name} must be {count} in number. Received: {found}")
        return read

    def _is_read(self, values):
        """Whether these are arrays of the shapes and dtypes that the encoder gives."""
        null = self.null(1)
        try:
            tree.assert_same_structure(null, values)
        except (TypeError, ValueError):
            return False
        pairs = zip(tree.flatten(null), tree.flatten(values))
        return all(
            hasattr(value, "shape")
            and tuple(value.shape[1:]) == nothing.shape[1:]
            and np.asarray(value[:1]).dtype.kind == nothing.dtype.kind
            for nothing, value in pairs
        )

    def _text(self, value):
        if value is None:
            return ""
        if isinstance(value, bytes):  # as TensorFlow's strings are on the host
            value = value.decode()
        if not isinstance(value, str):
            raise ValueError(
                f"{self.name} must be a list of strings, None or '' where nothing is said. "
                f"Received: {value!r:.60}"
            )
        return value

    def _read(self, texts):
        try:
            return self.encoder.read(texts, self.length)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def places(self) -> int:
        return self.length

    @property
    def words(self) -> str:
        return f"texts of up to {self.length} tokens, {self.encoder.facts}"

    def null(self, count: int) -> Any:
        return self.encoder.nothing(count, self.length)

    def embed(self, values: Any) -> Context:
        tokens, mask = self.encoder(values)
        vector = self.pooling and backend.call_layer(self.pooling, tokens, mask)
        return Context(vector, tokens, mask)  # (B, D) or None, (B, L, D), (B, L)

    def get_config(self) -> dict:
        parts = {name: save_part(getattr(self, name)) for name in ("encoder", "pooling")}
        own = {"length": self.length, **parts}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**load_parts(config, "encoder", "pooling"))


def _listed(values: Any) -> Sequence:
    """One text as a list of it; a column of them, or any other array, as a flat list."""
    if isinstance(values, (str, bytes)):
        return [values]
    if not hasattr(values, "shape"):
        return list(values)
    return list(np.asarray(values).reshape(-1))
