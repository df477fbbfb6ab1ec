"""Guidance that goes from a weaker estimate past a stronger one.

x0 = x0(weak) + scale (x0(strong) − x0(weak)),                                          (1)
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.guidance.base import Guidance, Unguided
from keras_dit.guidance.batches import estimates_of
from keras_dit.guidance.scales import AtTimes, checked_scale, is_one
from keras_dit.predictions import Denoised
from keras_dit.schedules import Rates
from keras_dit.schedules.base import columns
from keras_dit.serialization import number, register

__all__ = ["Autoguidance", "ClassifierFree", "Contrast", "NegativeLabel", "pair"]


@dataclass(frozen=True)
class Contrast(Guidance):
    """Equation (1). Scale 0 is the weak estimate, 1 the strong one alone, above 1 exaggerates.

    At scale 1 the weak one is not evaluated. A learned variance is never guided.

    Args:
        scale: any finite number; a sequence with one for each sample; or a function of t such as
            `Interval` and `Ramp`.
        channels: how many of the first channels are guided, the others being those of the strong
            estimate; None: all of them. facebookresearch/DiT guides 3 of its 4.
        rescale: in [0, 1], how far the deviation of each guided image is brought back to that
            of the strong estimate, against washed-out contrast.

    Reference:
        Ho, Salimans: Classifier-Free Diffusion Guidance (2022), equation 6, w = scale − 1; Lin et
        al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2024), equation 16.
    """

    scale: float | tuple | Callable = number(3.0)
    channels: int | None = None
    rescale: float = 0.0

    needs_condition = True

    def __post_init__(self):
        object.__setattr__(self, "scale", checked_scale(self.scale))
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be 1 or more. Received: channels={self.channels}")
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale must be in [0, 1]. Received: rescale={self.rescale}")

    def estimates(self, denoiser: Any, condition: Any, x_t: Any, rates: Rates) -> tuple:
        """The strong `Denoised`, and the weak x0."""
        raise NotImplementedError

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        if condition is None and self.needs_condition:
            raise ValueError(f"{type(self).__name__} needs labels. Received: condition=None")
        if is_one(self.scale):
            return Unguided()(denoiser, condition)

        def denoise(x_t, rates):
            (strong, fraction), weak = self.estimates(denoiser, condition, x_t, rates)
            scale = self.scale(rates.t) if callable(self.scale) else self.scale
            scale = columns(ops.convert_to_tensor(scale, "float32"), strong)
            guided = weak + scale * (strong - weak)  # (1)
            if self.rescale:
                guided = guided * (1.0 - self.rescale + self.rescale * _std(strong) / _std(guided))
            if self.channels is not None:
                parts = [guided[..., : self.channels], strong[..., self.channels :]]
                guided = ops.concatenate(parts, axis=-1)
            return Denoised(guided, fraction)

        return denoise

    def simplified(self, times: Any, samples: Any, count: int) -> Any:
        scale = self.scale
        if callable(scale):
            scales = [float(ops.convert_to_numpy(scale(t))) for t in times]
            scale = scales[0] if len(set(scales)) == 1 else AtTimes(times, tuple(scales))
        elif isinstance(scale, tuple):
            if len(scale) != count:
                raise ValueError(f"there are {len(scale)} scales for {count} samples")
            scale = tuple(scale[i] for i in samples)
        return Unguided() if is_one(scale) else dataclasses.replace(self, scale=scale)


@register
@dataclass(frozen=True)
class ClassifierFree(Contrast):
    """Weak is the estimate under no class, in one batch with the other.

    Example:

    >>> # diffusion.generate(labels=[3, 7], guidance=ClassifierFree(2.0))
    >>> ClassifierFree(2.0, rescale=0.7)
    ClassifierFree(scale=2.0, channels=None, rescale=0.7)
    >>> ClassifierFree(Interval(3.0, low=0.2, high=0.7)).scale  # none at the ends of a run
    Interval(scale=3.0, low=0.2, high=0.7)

    Reference:
        Ho, Salimans: Classifier-Free Diffusion Guidance (2022).
    """

    copies = 2

    def estimates(self, denoiser: Any, condition: Any, x_t: Any, rates: Rates) -> tuple:
        return pair(denoiser, condition, denoiser.null(condition), x_t, rates)


@register
@dataclass(frozen=True)
class NegativeLabel(Contrast):
    """Weak is the estimate under another class, which the images are kept away from.

    Args:
        label: of that class.
        condition: name of the condition that it is a value of, where the network has several; the
            others are the same for both estimates.

    Example:

    >>> # diffusion.generate(labels=[3], guidance=NegativeLabel(2.0, label=8))
    >>> NegativeLabel(2.0, label=8).label
    8
    """

    label: int = number(kw_only=True)
    condition: str = field(default="label", kw_only=True)

    copies = 2

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.label, bool) or not isinstance(self.label, (int, np.integer)):
            raise ValueError(f"label must be an integer. Received: label={self.label!r}")
        if self.label < 0:
            raise ValueError(f"label must be 0 or more. Received: label={self.label}")

    def check(self, network: Any) -> Any:
        conditions = network.told
        chosen = conditions.get(self.condition)
        if chosen is None and len(conditions) == 1:
            (chosen,) = conditions.values()
        classes = getattr(chosen, "num_classes", None)
        if classes is None:
            raise ValueError(
                "condition must be the name of one with classes. "
                f"Received: condition={self.condition!r} for a network of {list(conditions)}"
            )
        if self.label >= classes:
            raise ValueError(f"label must lie in 0 ... {classes - 1}. Received: label={self.label}")

    def estimates(self, denoiser: Any, condition: Any, x_t: Any, rates: Rates) -> tuple:
        if isinstance(condition, dict):
            away = ops.full_like(condition[self.condition], self.label)
            other = {**condition, self.condition: away}
        else:
            other = ops.full_like(condition, self.label)
        return pair(denoiser, condition, other, x_t, rates)


@dataclass(frozen=True)
class Autoguidance(Contrast):
    """Weak is the estimate of a worse network under the same condition.

    It holds a network, so it is passed to `generate` and not saved.

    Args:
        weak: the `Denoiser` of a smaller or less trained network, `Diffusion.denoiser()` of it.

    Example:

    >>> # diffusion.generate(guidance=Autoguidance(2.0, weak=smaller.denoiser()))
    >>> Autoguidance(2.0, weak=lambda x_t, rates, condition: x_t).scale
    2.0

    Reference:
        Karras et al., Guiding a Diffusion Model with a Bad Version of Itself (2024), equation 3.
    """

    weak: Callable = field(kw_only=True)

    needs_condition = False

    def __post_init__(self):
        super().__post_init__()
        if not callable(self.weak) or isinstance(self.weak, keras.layers.Layer):
            raise ValueError(
                "weak must be a denoiser: of a Diffusion called `other` give other.denoiser(). "
                f"Received: weak={self.weak!r}"
            )

    def estimates(self, denoiser: Any, condition: Any, x_t: Any, rates: Rates) -> tuple:
        return denoiser(x_t, rates, condition), self.weak(x_t, rates, condition).x0


def pair(denoiser: Any, condition: Any, other: Any, x_t: Any, rates: Rates) -> tuple:
    """The `Denoised` of one condition and the x0 of another, in one batch."""
    (strong, weak), fraction = estimates_of(denoiser, (condition, other), x_t, rates)
    return Denoised(strong, fraction), weak


def _std(x):
    return ops.std(x, axis=tuple(range(1, len(x.shape))), keepdims=True)
