"""Text that needs nothing from elsewhere: its words, and a small transformer that is trained along.

    text -> words -> numbers, 0 where there is none -> table + places -> blocks -> norm -> tokens

A word that is not among those given is spelled, by the bytes of its UTF-8: so any text has numbers.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.conditions.encoder import TextEncoder
from keras_dit.conditions.tokens import Sequence as Embeddings
from keras_dit.layers import EncoderBlock, LayerNorm
from keras_dit.serialization import register

__all__ = ["WordEncoder", "words_of"]

BYTES = 256


def split(text: str) -> list[str]:
    """The words and marks of a text, in lower case.

    Example:

    >>> split("A red three,  twice")
    ['a', 'red', 'three', ',', 'twice']
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def words_of(texts: Iterable[str], most: int = 10000) -> tuple[str, ...]:
    """The words of some texts, those that come most often first.

    Args:
        texts: such as all captions of a data set; None stands for an empty one.
        most: how many at most.

    Example:

    >>> words_of(["a red three", "a blue seven"])
    ('a', 'blue', 'red', 'seven', 'three')
    """
    counts = collections.Counter(word for text in texts for word in split(text or ""))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])


@register
class WordEncoder(TextEncoder):
    """Words -> numbers -> tokens, by a transformer whose weights are trained with the network's.

    Args:
        words: those that have a number of their own, such as `words_of(captions)`; every other
            word is spelled by its bytes.
        depth: number of transformer blocks.
        num_heads: of each block's attention; the network's width has to be a multiple of it.
        hidden_size: width D of the tokens; None: that of the network.

    Call:
        numbers int32 (B, L), 0 where there is no word -> tokens (B, L, D), mask bool (B, L).

    Raises:
        ValueError: for a word that is not one, or comes twice.

    Example:

    >>> encoder = WordEncoder(["a", "red", "three"], depth=1, num_heads=2, hidden_size=8)
    >>> encoder.read(["a red three", "red cat"], 6).tolist()  # c, a and t are bytes
    [[257, 258, 259, 0, 0, 0], [258, 100, 98, 117, 0, 0]]
    """

    def __init__(
        self,
        words: Sequence[str] = (),
        depth: int = 2,
        num_heads: int = 4,
        hidden_size: int | None = None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        wrong = [word for word in words if split(word) != [word]]
        if wrong or len(set(words)) < len(words):
            raise ValueError(
                "words must be single words in lower case, each once, as words_of(captions) gives "
                f"them. Received: {wrong[0] if wrong else 'a word twice'!r}"
            )
        self.words, self.depth, self.num_heads = tuple(words), depth, num_heads
        self.hidden_size = hidden_size
        self._numbers = {word: BYTES + 1 + index for index, word in enumerate(self.words)}

    @property
    def facts(self) -> str:
        return f"{len(self.words)} words of their own, {self.depth} blocks"

    def read(self, texts: Sequence[str], length: int) -> np.ndarray:
        numbers = np.zeros((len(texts), length), "int32")
        for index, text in enumerate(texts):
            found = [number for word in split(text) for number in self._numbers_of(word)]
            self.check_length(text, len(found), length)
            numbers[index, : len(found)] = found
        return numbers

    def _numbers_of(self, word):
        number = self._numbers.get(word)
        return [1 + byte for byte in word.encode()] if number is None else [number]

    def count(self, text: str) -> int:
        """How many numbers a text has."""
        return sum(len(self._numbers_of(word)) for word in split(text))

    def nothing(self, count: int, length: int) -> np.ndarray:
        return np.zeros((count, length), "int32")

    def build(self, length: int) -> None:
        def table(rows, name):
            initializer = keras.initializers.RandomNormal(stddev=0.02)
            shape = (rows, self.hidden_size)
            return self.add_weight(shape=shape, initializer=initializer, name=name)

        options = {"dtype": self.dtype_policy}
        self.table = table(BYTES + 1 + len(self.words), "table")
        self.places = table(length, "places")
        self.blocks = [
            EncoderBlock(self.num_heads, name=f"block_{i}", **options) for i in range(self.depth)
        ]
        self.norm = LayerNorm(affine=True, name="norm", **options)
        for block in self.blocks:
            block.build((None, length, self.hidden_size))
        self.norm.build((None, length, self.hidden_size))

    def call(self, numbers: Any) -> Embeddings:
        numbers = ops.cast(numbers, "int32")
        mask = numbers > 0
        x = ops.take(self.table, numbers, axis=0) + self.places[: numbers.shape[1]]
        x = ops.cast(x, self.compute_dtype)  # (B, L, D)
        for block in self.blocks:
            x = backend.call_layer(block, x, mask)
        return Embeddings(backend.call_layer(self.norm, x), mask)

    def get_config(self) -> dict:
        names = ("depth", "num_heads", "hidden_size")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), "words": list(self.words), **own}
