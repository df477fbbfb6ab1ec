"""Text by a language model of keras-hub, which is not trained: its embeddings, computed once.

text -> tokens -> embeddings (L, size), on the host, kept by text -> a linear map, trained
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.conditions.encoder import TextEncoder
from keras_dit.conditions.tokens import Sequence as Embeddings
from keras_dit.layers.linear import TokenDense
from keras_dit.serialization import register

__all__ = ["KerasHub"]

ROWS = 32  # texts that are embedded at once, so that there is one program for a length
EMBEDDINGS = ("sequence_output", "encoder_sequence_output")  # by name, where there are several


@register
class KerasHub(TextEncoder):
    """The embeddings of a backbone of keras-hub, such as BERT, T5 or CLIP's text encoder.

    The backbone is no part of the network: its weights are neither trained nor saved with it, but
    read from the preset when the first text comes. Each text is embedded once in a process.

    Args:
        preset: as for `keras_hub.models.Backbone.from_preset`: a name such as "t5_small_multi" or
            "bert_base_en", an address, or a folder that `save_to_preset` has written.
        size: width of its embeddings; None: asked of the preset.
        hidden_size: width D of the tokens; None: that of the network.

    Call:
        `Sequence` of embeddings (B, L, size) and mask (B, L) -> tokens (B, L, D), mask (B, L).

    Raises:
        ImportError: without keras-hub, when the preset is needed.

    Example:

    >>> encoder = KerasHub("bert_base_en", size=768)  # Text(77, encoder) for a network
    >>> encoder.nothing(2, length=77).tokens.shape
    (2, 77, 768)
    """

    def __init__(
        self, preset: str, size: int | None = None, hidden_size: int | None = None, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.preset, self.hidden_size = str(preset), hidden_size
        self.size = _opened(self.preset).size if size is None else int(size)

    @property
    def facts(self) -> str:
        return f"embedded by {self.preset}, {self.size} numbers each"

    def read(self, texts: Sequence[str], length: int) -> Embeddings:
        found = self.nothing(len(texts), length)
        embedded = _opened(self.preset).embeddings(texts, length, self.check_length)
        for index, one in enumerate(embedded):
            found.tokens[index, : len(one)] = one
            found.mask[index, : len(one)] = True
        return found

    def nothing(self, count: int, length: int) -> Embeddings:
        tokens = np.zeros((count, length, self.size), "float32")
        return Embeddings(tokens, np.zeros((count, length), bool))

    def build(self, length: int) -> None:
        self.projection = TokenDense(self.hidden_size, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, length, self.size))

    def call(self, values: Any) -> Embeddings:
        tokens, mask = values
        x = backend.call_layer(self.projection, ops.cast(tokens, self.compute_dtype))
        return Embeddings(x, ops.cast(mask, "bool"))  # (B, L, D), (B, L)

    def get_config(self) -> dict:
        own = {name: getattr(self, name) for name in ("preset", "size", "hidden_size")}
        return {**super().get_config(), **own}


class _Backbone:
    """A backbone, its tokenizer, and the embeddings of all texts so far."""

    def __init__(self, preset):
        try:
            import keras_hub
        except ImportError:
            raise ImportError(
                f"the texts are embedded by {preset} of keras-hub: pip install 'keras_dit[text]'"
            ) from None
        self.tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
        self.model = keras_hub.models.Backbone.from_preset(preset)
        self.model.trainable = False
        self.known: dict[tuple, np.ndarray] = {}

    @property
    def size(self):
        return int(self._of_outputs(self.model.output).shape[-1])

    def embeddings(self, texts, length, check_length):
        """Of each text an array (l, size), in their order."""
        new = [text for text in dict.fromkeys(texts) if text and (text, length) not in self.known]
        for start in range(0, len(new), ROWS):
            self._embed(new[start : start + ROWS], length, check_length)
        nothing = np.zeros((0, self.size), "float32")
        return [self.known[text, length] if text else nothing for text in texts]

    def _embed(self, texts, length, check_length):
        ids = [self._ids(text) for text in texts]
        for text, found in zip(texts, ids):
            check_length(text, len(found), length)
        tokens = np.full((ROWS, length), self.tokenizer.pad_token_id or 0, "int32")
        mask = np.zeros((ROWS, length), "int32")
        for index, found in enumerate(ids):
            tokens[index, : len(found)], mask[index, : len(found)] = found, 1
        made = self._of_outputs(self.model.predict_on_batch(self._inputs(tokens, mask)))
        for text, row, found in zip(texts, np.asarray(made, "float32"), ids):
            self.known[text, length] = row[: len(found)]

    def _ids(self, text):
        """The tokens of a text, between the marks of its begin and end that the tokenizer has."""
        ids = [int(number) for number in np.asarray(self.tokenizer([text])[0])]
        start, end, pad = (
            getattr(self.tokenizer, f"{name}_token_id", None) for name in ("start", "end", "pad")
        )
        ids = ids if start in (None, pad) else [start, *ids]
        return ids if end in (None, pad) else [*ids, end]

    def _inputs(self, tokens, mask):
        """By the names that the model calls its inputs; the decoder of a T5 is told the same."""
        kinds = {"token_ids": tokens, "padding_mask": mask, "segment_ids": np.zeros_like(tokens)}
        names = self.model.input
        return {n: next(v for k, v in kinds.items() if n.endswith(k)) for n in names}

    def _of_outputs(self, outputs):
        if not isinstance(outputs, dict):
            return outputs
        return next(outputs[name] for name in EMBEDDINGS if name in outputs)


@functools.lru_cache(maxsize=4)
def _opened(preset):
    return _Backbone(preset)
