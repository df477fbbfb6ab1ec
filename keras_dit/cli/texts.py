"""Texts at the command line: a network for data with captions, and prompts to sample by."""

import argparse
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_dit import files
from keras_dit.conditions import Text, WordEncoder, words_of
from keras_dit.layers import AdaLNBlock, InContextAttention, MeanPooling, RMSNorm, Rotary, save_part
from keras_dit.networks import Network

__all__ = ["check", "conditions", "in_turn", "kept_prompts", "parts", "previews", "prompts",
           "write_captions"]  # fmt: skip

TEXT = "text"  # the name of the condition
PREVIEWS = 8  # captions of the data, of which training shows what becomes


def parts(data: Any, num_heads: int) -> dict:
    """The arguments of a network, as its configuration has them, for data with captions.

    Args:
        data: `ImageBatches`; without captions nothing is needed.
        num_heads: of the network.
    """
    if TEXT not in data.conditions:
        return {}
    condition = _of_captions(data, num_heads, MeanPooling())
    positions = Rotary(theta=10.0)  # sin-cos ones hardly tell the cells of a small grid apart
    attention = InContextAttention(num_heads, qk_norm=RMSNorm(), positions=positions)
    block = AdaLNBlock(num_heads, attention=attention)
    return {"conditions": {TEXT: save_part(condition)}, "block": save_part(block)}


def conditions(data: Any, network: Network) -> dict[str, Text]:
    """What a trained network is to be told anew for data with captions, by name.

    One that knows texts learns the words and the length that it lacks; {}: it lacks none.
    """
    if TEXT not in data.conditions:
        return {}
    known = network.conditions.get(TEXT)
    if known is not None:
        return _widened(known, data.conditions[TEXT])
    heads = network.config["num_heads"]
    if heads is None:
        heads = network.blocks[0].attention.num_heads
    return {TEXT: _of_captions(data, heads)}  # a vector would change at once what it has learned


def _widened(text, captions):
    encoder = text.encoder
    if not isinstance(encoder, WordEncoder):
        return {}
    words = [*encoder.words, *(w for w in words_of(captions) if w not in encoder.words)]
    encoder = WordEncoder.from_config({**encoder.get_config(), "words": words})
    length = max(text.length, *(encoder.count(caption or "") for caption in captions))
    config = {**text.get_config(), "length": length, "encoder": save_part(encoder)}
    same = (len(words), length) == (len(text.encoder.words), text.length)
    return {} if same else {TEXT: Text.from_config(config)}


def _of_captions(data, num_heads, pooling=None):
    found = _condition(tuple(data.conditions[TEXT]), num_heads, len(data.conditions) > 1)
    return Text.from_config({**found.get_config(), "pooling": pooling})


@functools.lru_cache(maxsize=1)
def _condition(captions, num_heads, beside_others):
    encoder = WordEncoder(words_of(captions), num_heads=num_heads)
    longest = max(encoder.count(caption or "") for caption in captions)
    # Beside others it is dropped by itself, so that each can have a scale of its own in guidance.
    return Text(max(1, longest), encoder, dropout=0.1 if beside_others else None)


def check(network: Network, data: Any) -> None:
    """Raise ValueError for a caption that the network cannot read; of data, not a batch of it."""
    captions = data.conditions.get(TEXT, ())
    if len(captions) and TEXT not in network.conditions:
        raise ValueError("the data has captions, and the network is told no texts")
    for start in range(0, len(captions), 10000):
        network.conditions[TEXT].check(captions[start : start + 10000])


def previews(data: Any) -> list[str]:
    """Captions of the data, none twice."""
    found = dict.fromkeys(text for text in data.conditions.get(TEXT, ())[:1000] if text)
    return list(found)[:PREVIEWS]


def kept_prompts(path: str) -> list[str]:
    """The captions by which the run in this folder made its images; none if it is no such run."""
    folder = pathlib.Path(path)
    folder = folder.parent if folder.suffix == ".keras" else folder
    try:
        return json.loads((folder / "config.json").read_text()).get("prompts", [])
    except (OSError, ValueError):
        return []


def prompts(arguments: argparse.Namespace, network: Network) -> list[str]:
    """The prompts that were given; else those of the run; none for a network without texts.

    Raises:
        ValueError: for prompts to a network that takes none, or an empty file.
        OSError: for a file that cannot be read.
    """
    given = arguments.prompt or []
    if arguments.prompts:
        lines = pathlib.Path(arguments.prompts).read_text(encoding="utf-8").splitlines()
        given = [line.strip() for line in lines if line.strip()]
        if not given:
            raise ValueError(f"--prompts {arguments.prompts}: there is no line in it")
    asked = given or arguments.negative_prompt or arguments.prompt_guidance is not None
    if asked and TEXT not in network.conditions:
        raise ValueError("--prompt: the network is told no texts")
    if TEXT not in network.conditions:
        return []
    return given or kept_prompts(arguments.model)


def write_captions(folder: pathlib.Path, names: Sequence[str], text: Sequence[str]) -> None:
    """metadata.jsonl beside images, by which the folder can be trained on."""
    rows = [json.dumps({"file_name": n, TEXT: t}, ensure_ascii=False) for n, t in zip(names, text)]
    with files.beside(folder / "metadata.jsonl") as new:
        new.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def in_turn(values: Sequence, count: int) -> list:
    """So many of the values, again from the first where they end."""
    return [values[index % len(values)] for index in range(count)]
