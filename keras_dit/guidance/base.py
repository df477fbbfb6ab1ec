"""Denoiser -> guided denoiser."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_dit.predictions import Denoised
from keras_dit.serialization import Configurable, number, register

__all__ = ["Clipped", "Guidance", "Unguided"]


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

    def prepared(self, network: Any) -> "Guidance":
        """Itself for a network, checked, with what only the network can read of it; on the host."""
        self.check(network)
        return self

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

    def prepared(self, network: Any) -> Guidance:
        return dataclasses.replace(self, guidance=self.guidance.prepared(network))

    def simplified(self, times: Any, samples: Any, count: int) -> Any:
        inner = self.guidance.simplified(times, samples, count)
        return dataclasses.replace(self, guidance=inner)
