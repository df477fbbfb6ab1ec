"""Denoiser -> guided denoiser.

A guidance takes a denoiser and the condition of a batch and gives what a solver calls,
(x_t, rates) -> `Denoised`. Since x0 is linear in the network's output, guiding x0 and guiding
the noise are the same.
"""

import math
from dataclasses import dataclass

from keras import ops

from keras_dit.predictions import Denoised
from keras_dit.schedules import Rates
from keras_dit.serialization import Configurable, register


class Guidance(Configurable):
    """How a condition steers a denoiser. Subclasses are frozen dataclasses."""

    def __call__(self, denoiser, condition):
        """The denoiser of one batch.

        Args:
            denoiser: (x_t, rates, condition) -> `Denoised`, with `null(condition)`.
            condition: labels int32 (B,), or None.

        Returns:
            A function (x_t, rates) -> `Denoised`.
        """
        raise NotImplementedError


@register
@dataclass(frozen=True)
class Unguided(Guidance):
    """The denoiser under its condition, as it is."""

    def __call__(self, denoiser, condition):
        return lambda x_t, rates: denoiser(x_t, rates, condition)


@register
@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """x0 = x0(∅) + scale (x0(c) − x0(∅)), both halves in one batch.

    Scale 0 is unconditional, 1 is the condition alone (and costs one evaluation, not two),
    above 1 exaggerates it. A learned variance is never guided.

    Args:
        scale: any finite number.
        channels: how many of the first channels are guided, the others being those of the
            condition; None: all of them. facebookresearch/DiT guides 3 of its 4.

    Reference:
        Ho, Salimans: Classifier-Free Diffusion Guidance (2022), equation 6, w = scale − 1.
    """

    scale: float = 3.0
    channels: int | None = None

    def __post_init__(self):
        if not isinstance(self.scale, (int, float)) or not math.isfinite(self.scale):
            raise ValueError(f"scale must be a finite number. Received: scale={self.scale!r}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be 1 or more. Received: channels={self.channels}")

    def __call__(self, denoiser, condition):
        if condition is None:
            raise ValueError("classifier-free guidance needs labels. Received: condition=None")
        if self.scale == 1:
            return Unguided()(denoiser, condition)

        def denoise(x_t, rates):
            both = ops.concatenate([condition, denoiser.null(condition)], axis=0)
            x0, fraction = denoiser(_twice(x_t), Rates(*map(_twice_rate, rates)), both)
            conditional, null = ops.split(x0, 2, axis=0)
            guided = null + self.scale * (conditional - null)
            if self.channels is not None:
                guided = ops.concatenate(
                    [guided[..., : self.channels], conditional[..., self.channels :]], axis=-1
                )
            if fraction is not None:
                fraction = ops.split(fraction, 2, axis=0)[0]
            return Denoised(guided, fraction)

        return denoise


@register
@dataclass(frozen=True)
class Clipped(Guidance):
    """Another guidance whose x0 is clipped to [−limit, limit], for pixels.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), as in its released code.
    """

    guidance: Guidance = Unguided()
    limit: float = 1.0

    def __call__(self, denoiser, condition):
        inner = self.guidance(denoiser, condition)

        def denoise(x_t, rates):
            x0, fraction = inner(x_t, rates)
            return Denoised(ops.clip(x0, -self.limit, self.limit), fraction)

        return denoise


def _twice(x):
    return ops.concatenate([x, x], axis=0)


def _twice_rate(rate):
    return rate if len(rate.shape) == 0 else _twice(rate)
