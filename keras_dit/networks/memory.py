"""How much memory a step of training takes.

    bytes ≈ w P + activations,   activations ≈ 4 B T D (F depth + 32)                         (1)

with P parameters of w bytes (five floats: weight, gradient, AdamW's two moments, the average), B
images of T tokens of width D. F floats a token, a block and a unit of width are kept for the
gradient, with remat fewer of all blocks but one. w and F are the backend's (`backend.step_memory`),
measured in float32 on a CPU.
"""

from collections.abc import Mapping
from typing import Any

from keras_dit import backend
from keras_dit.networks.cost import count_parameters, longest_sequence

__all__ = ["training_memory"]

ENDS = 32  # floats a token and a unit of width, of what stands before and after the blocks


def training_memory(config: Mapping[str, Any], batch_size: int) -> float:
    """Bytes that a training step of AdamW holds at most, float32.

    Args:
        config: arguments of `DiTModel`; `remat` among them.
        batch_size: images in a step.

    Example:

    >>> from keras_dit.networks import preset_config
    >>> config = {**preset_config("dit_s_4"), "input_shape": (64, 64, 3)}
    >>> training_memory(config, 128) > 5 * training_memory(config, 8)
    True
    """
    tokens = longest_sequence(config)
    takes = backend.step_memory()
    kept = takes.kept * config["depth"]
    if config.get("remat"):
        kept = takes.remat * config["depth"] + takes.kept
    activations = 4 * batch_size * tokens * config["hidden_size"] * (kept + ENDS)  # (1)
    return takes.parameter * count_parameters(config) + activations
