"""How much memory a step of training takes.

    bytes ≈ 20 P + activations,   activations ≈ 4 B T D (F depth + 32)                        (1)

with P parameters (weight, gradient, AdamW's two moments, the average: five floats each), B images
of T tokens of width D. F floats a token, a block and a unit of width are kept for the gradient;
with remat only the block's input is, beside one block's own. F was measured on a CPU in float32 as
what one block more takes: 37 on JAX, 17 on TensorFlow. JAX's is taken for all.
"""

from collections.abc import Mapping
from typing import Any

from keras_dit.networks.cost import count_parameters

__all__ = ["training_memory"]

KEPT = 36  # floats a token, a block and a unit of width; attention's scores apart
ENDS = 32  # of what stands before and after the blocks


def training_memory(config: Mapping[str, Any], batch_size: int) -> float:
    """Bytes that a training step of AdamW holds at most, float32.

    Args:
        config: arguments of `DiTModel`; `remat` among them.
        batch_size: images in a step.

    Example:

    >>> from keras_dit.networks import preset_config
    >>> config = {**preset_config("dit_s_4"), "input_shape": (64, 64, 3)}
    >>> training_memory(config, 128) > 10 * training_memory(config, 8)
    True
    """
    height, width, _ = config["input_shape"]
    tokens = height * width // config["patch_size"] ** 2
    kept = KEPT * config["depth"]
    if config.get("remat"):
        kept = config["depth"] + KEPT
    activations = 4 * batch_size * tokens * config["hidden_size"] * (kept + ENDS)  # (1)
    return 20 * count_parameters(config) + activations
