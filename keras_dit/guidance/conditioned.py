"""Guidance that a network has learned, and is only told."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit.guidance.base import Guidance
from keras_dit.serialization import number, register

__all__ = ["Conditioned"]


@register
@dataclass(frozen=True)
class Conditioned(Guidance):
    """Classifier-free guidance in the network itself, which is told its scale: one evaluation.

    For networks of `objectives.MeanFlow`. The scales that it knows are those of its training
    (`RandomGuidance(largest=...)`).

    Args:
        scale: above 0; 1 is none.
        low, high: times between which there is guidance.

    Raises:
        ValueError: for another scale, or for a network that is told none.

    Example:

    >>> # diffusion.generate(labels=[3, 7], steps=1, guidance=Conditioned(1.5))
    >>> Conditioned(1.5, low=0.2, high=0.8)
    Conditioned(scale=1.5, low=0.2, high=0.8)

    Reference:
        Geng et al., Improved Mean Flows (2025), section 4.2.
    """

    scale: float = number(1.5)
    low: float = number(0.0)
    high: float = number(1.0)

    def __post_init__(self):
        numbers = self.scale, self.low, self.high
        if not all(isinstance(x, (int, float, np.number)) and np.isfinite(x) for x in numbers):
            raise ValueError(f"scale, low and high must be finite numbers. Received: {self}")
        if not (self.scale > 0 and 0 <= self.low <= self.high <= 1):
            raise ValueError(f"scale must be above 0, and 0 <= low <= high <= 1. Received: {self}")

    def check(self, network: Any) -> Any:
        if "guidance" not in network.conditions:
            raise ValueError(
                "Conditioned is for a network that is told its guidance, such as one of "
                "objectives.MeanFlow: use ClassifierFree. "
                f"Received: a network of {', '.join(network.conditions) or 'no conditions'}"
            )

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        def denoise(x_t, rates):
            extra, low, high = 1.0 - 1.0 / self.scale, self.low, self.high
            if rates.until is None:  # at an instant there is guidance or none
                extra = ops.where((rates.t >= low) & (rates.t <= high), extra, 0.0)
                low, high = 0.0, 1.0
            numbers = [ops.convert_to_tensor(x, "float32") for x in (extra, low, high)]
            return denoiser(x_t, rates, condition, {"guidance": ops.stack(numbers)})

        return denoise
