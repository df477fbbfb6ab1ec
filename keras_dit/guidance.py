"""Denoiser -> guided denoiser.

A guidance takes a denoiser and the condition of a batch and gives what a solver calls,
(x_t, rates) -> `Denoised`. Since x0 is linear in the network's output, guiding x0 and guiding
the noise are the same. Most guidances go from a weaker estimate past a stronger one,

    x0 = x0(weak) + scale (x0(strong) − x0(weak)),                                          (1)

and differ in what is weak.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit.predictions import Denoised
from keras_dit.schedules import Rates
from keras_dit.schedules.base import columns
from keras_dit.serialization import Configurable, number, register

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "Clipped",
    "Contrast",
    "Guidance",
    "Interval",
    "NegativeLabel",
    "Ramp",
    "Unguided",
]


class Guidance(Configurable):
    """How a condition steers a denoiser. Subclasses are frozen dataclasses.

    Fields that are numbers are made by `serialization.number`: other values of them, or one for
    each sample, need no other compiled step.

    Attributes:
        copies: how many of each sample are in the batch that it evaluates.
    """

    example = "guidance.ClassifierFree(3.0)"
    copies = 1

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        """The denoiser of one batch.

        Args:
            denoiser: (x_t, rates, condition) -> `Denoised`, with `null(condition)`.
            condition: what the network is told, such as labels int32 (B,), or None.

        Returns:
            A function (x_t, rates) -> `Denoised`.
        """
        raise NotImplementedError

    def check(self, network: Any) -> Any:
        """Raise ValueError if what a network is told cannot be guided so; on the host."""

    def simplified(self, times: Any, samples: Any, count: int) -> "Guidance":
        """What does the same at some times for some samples; on the host, before a step.

        Args:
            times: the times that will be asked for, floats.
            samples: the samples' numbers within the run, int (B,).
            count: how many samples the run has.

        Returns:
            A guidance, such as `Unguided()` where the scale is 1.

        Raises:
            ValueError: if there are numbers for each sample, but not `count` of them.
        """
        return self


@register
@dataclass(frozen=True)
class Unguided(Guidance):
    """The denoiser under its condition, as it is.

    Example:

    >>> denoise = Unguided()(lambda x_t, rates, condition: condition, "seven")
    >>> denoise(None, None)
    'seven'
    """

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        return lambda x_t, rates: denoiser(x_t, rates, condition)


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
        object.__setattr__(self, "scale", _checked_scale(self.scale))
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
        if _is_one(self.scale):
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
            scale = scales[0] if len(set(scales)) == 1 else _AtTimes(times, tuple(scales))
        elif isinstance(scale, tuple):
            if len(scale) != count:
                raise ValueError(f"there are {len(scale)} scales for {count} samples")
            scale = tuple(scale[i] for i in samples)
        return Unguided() if _is_one(scale) else dataclasses.replace(self, scale=scale)


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
        return _both(denoiser, condition, denoiser.null(condition), x_t, rates)


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
        conditions = network.conditions
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
        return _both(denoiser, condition, other, x_t, rates)


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


@register
@dataclass(frozen=True)
class Clipped(Guidance):
    """Another guidance whose x0 is clipped to [−limit, limit], for pixels.

    Example:

    >>> Clipped(ClassifierFree(2.0)).limit
    1.0

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), as in its released code.
    """

    guidance: Guidance = Unguided()
    limit: float = number(1.0)

    @property
    def copies(self):
        return self.guidance.copies

    def __call__(self, denoiser: Any, condition: Any) -> Any:
        inner = self.guidance(denoiser, condition)

        def denoise(x_t, rates):
            x0, fraction = inner(x_t, rates)
            return Denoised(ops.clip(x0, -self.limit, self.limit), fraction)

        return denoise

    def check(self, network: Any) -> Any:
        self.guidance.check(network)

    def simplified(self, times: Any, samples: Any, count: int) -> Any:
        inner = self.guidance.simplified(times, samples, count)
        return dataclasses.replace(self, guidance=inner)


# Scales that vary with t


@register
@dataclass(frozen=True)
class Interval(Configurable):
    """The scale where low ≤ t ≤ high, 1 elsewhere: there a step costs one evaluation, not two.

    Example:

    >>> [float(Interval(3.0)(ops.convert_to_tensor(t))) for t in (0.1, 0.5, 0.9)]
    [1.0, 3.0, 1.0]

    Reference:
        Kynkäänniemi et al., Applying Guidance in a Limited Interval Improves Sample and
        Distribution Quality in Diffusion Models (2024), equation 6.
    """

    scale: float = number(3.0)
    low: float = number(0.2)
    high: float = number(0.8)

    def __call__(self, t: Any) -> Any:
        return ops.where((t >= self.low) & (t <= self.high), self.scale, 1.0)


@register
@dataclass(frozen=True)
class Ramp(Configurable):
    """A scale that goes in a straight line from `start` at t = 1 to `end` at t = 0.

    Example:

    >>> [Ramp(start=1.0, end=4.0)(t) for t in (1.0, 0.5, 0.0)]
    [1.0, 2.5, 4.0]
    """

    start: float = number(1.0)
    end: float = number(4.0)

    def __call__(self, t: Any) -> Any:
        return self.end + (self.start - self.end) * t


@dataclass(frozen=True)
class _AtTimes:
    """Scales that were worked out on the host, each for its time."""

    times: tuple = number()
    scales: tuple = number()

    def __post_init__(self):
        for name in ("times", "scales"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def __call__(self, t):
        times, scales = (ops.convert_to_tensor(x, "float32") for x in (self.times, self.scales))
        nearest = ops.argmin(ops.abs(ops.expand_dims(t, -1) - times), axis=-1)
        return ops.take(scales, nearest)


def _checked_scale(scale):
    """A number, a tuple of them or a function, or ValueError."""
    if callable(scale):
        return scale
    values = np.asarray(scale)
    if values.dtype.kind not in "iuf" or values.ndim > 1 or not np.isfinite(values).all():
        raise ValueError(f"scale must be a finite number or some. Received: scale={scale!r}")
    return tuple(map(float, values)) if values.ndim else float(values)


def _is_one(scale):
    return isinstance(scale, (int, float)) and scale == 1


def _std(x):
    return ops.std(x, axis=tuple(range(1, len(x.shape))), keepdims=True)


def _both(denoiser, condition, other, x_t, rates):
    """The `Denoised` of one condition and the x0 of another, in one batch."""
    conditions = tree.map_structure(_joined, condition, other)
    twice = Rates(*(rate if len(rate.shape) == 0 else _joined(rate, rate) for rate in rates))
    x0, fraction = denoiser(_joined(x_t, x_t), twice, conditions)
    count = ops.shape(x_t)[0]
    if fraction is not None:
        fraction = fraction[:count]
    return Denoised(x0[:count], fraction), x0[count:]


def _joined(x, y):
    return ops.concatenate([x, y], axis=0)
