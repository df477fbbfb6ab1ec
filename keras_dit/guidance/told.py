"""Guidance by what a network with several conditions, or with text, is told."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_dit.guidance.base import Guidance, Unguided
from keras_dit.guidance.batches import estimates_of, repeated, with_values
from keras_dit.guidance.contrast import Contrast, pair
from keras_dit.guidance.scales import checked_scale, is_one
from keras_dit.predictions import Denoised
from keras_dit.schedules import Rates
from keras_dit.serialization import number, register

__all__ = ["Negative", "PerCondition"]


class Named(dict):
    """Values by the names of conditions, in a field of what can be hashed."""

    def __hash__(self):  # type: ignore[override]
        return hash(frozenset(self))


@register
@dataclass(frozen=True)
class Negative(Contrast):
    """Weak is the estimate under other values, which the images are kept away from.

    Args:
        told: by the names of conditions, one value of each, such as a negative prompt; the other
            conditions are the same for both estimates.

    Example:

    >>> # diffusion.generate(conditions={"text": ["a red three"]}, guidance=...)
    >>> Negative(2.0, told={"text": "a blue three"}).told
    {'text': 'a blue three'}
    """

    told: Mapping = field(kw_only=True)

    copies = 2

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.told, Mapping) or not self.told:
            raise ValueError(f"told must be values by name. Received: told={self.told!r}")
        object.__setattr__(self, "told", Named(self.told))

    def prepared(self, network: Any) -> Guidance:
        check_names("told", self.told, network)
        read = {k: network.conditions[k].check([v], 1) for k, v in self.told.items()}
        return dataclasses.replace(self, told=read)

    def estimates(self, denoiser: Any, condition: Any, x_t: Any, rates: Rates) -> tuple:
        count = ops.shape(x_t)[0]
        values = {name: repeated(value, count) for name, value in self.told.items()}
        return pair(denoiser, condition, with_values(condition, values), x_t, rates)


@register
@dataclass(frozen=True)
class PerCondition(Guidance):
    """Each condition with a scale of its own, told one after the other.

        x0 = x0(nothing) + Σ_i scale_i (x0(the first i) − x0(the first i − 1))

    With one scale for all it is `ClassifierFree`; with the scale 1 no guidance. It costs one
    evaluation more than there are scales, in one batch. Conditions that are not named are told to
    all estimates. A network follows it that was trained with a dropout for each condition.

    Args:
        scales: finite numbers by the names of conditions, in the order in which they are told.

    Example:

    >>> # diffusion.generate(labels=[3], conditions={"text": ["red"]}, guidance=...)
    >>> PerCondition({"label": 1.5, "text": 4.0}).copies
    3

    Reference:
        Brooks et al.: InstructPix2Pix (2023), equation 3.
    """

    scales: Mapping = number()

    def __post_init__(self):
        scales = dict(self.scales)
        if not scales:
            raise ValueError("scales must be numbers by the names of conditions. Received: none")
        for name, scale in scales.items():
            if np.ndim(scale) or callable(scale):
                raise ValueError(f"scales must be a number for each. Received: {name}={scale!r}")
            scales[name] = checked_scale(scale)
        object.__setattr__(self, "scales", Named(scales))

    @property
    def copies(self):
        return 1 + len(self.scales)

    def check(self, network: Any) -> Any:
        check_names("scales", self.scales, network)

    def simplified(self, times: Any, samples: Any, count: int) -> Guidance:
        return Unguided() if all(map(is_one, self.scales.values())) else self

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        def denoise(x_t, rates):
            steps = self._steps(condition, denoiser.null(condition))
            # The last is told everything: its variance is that of the estimate.
            estimates, fraction = estimates_of(denoiser, steps[::-1], x_t, rates)
            estimates = estimates[::-1]
            x0 = estimates[0]
            for scale, before, after in zip(self.scales.values(), estimates, estimates[1:]):
                x0 = x0 + scale * (after - before)
            return Denoised(x0, fraction)

        return denoise

    def _steps(self, condition, null):
        """What each estimate is told: from none of the named conditions to all of them."""
        given, nothing = (x if isinstance(x, dict) else _named(self.scales, x)
                          for x in (condition, null))  # fmt: skip
        told = {name: nothing[name] for name in self.scales}
        steps = [with_values(condition, told)]
        for name in self.scales:
            told = {**told, name: given[name]}
            steps.append(with_values(condition, told))
        return steps


def _named(scales, value):
    """The value of the only condition by its name."""
    return dict.fromkeys(scales, value)


def check_names(argument: str, names: Any, network: Any) -> None:
    """Raise ValueError for names of conditions that the network does not have."""
    strange = [name for name in names if name not in network.told]
    if strange:
        has = ", ".join(network.told) or "none"
        raise ValueError(
            f"{argument} must be by the names of the network's conditions, {has}. "
            f"Received: {strange[0]}"
        )
