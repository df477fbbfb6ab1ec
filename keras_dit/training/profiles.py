"""How an average of the weights forgets: by a decay, or by a power of training's length.

    a ← a + r_n (w − a) at update n = 0, 1, …
    exponential:  r_n = 1 − min(decay, n / (n + 10))
    power:        r_n = 1 − (1 − 1/t)^(γ+1),  t = n + 1                                       (127)

By the second one the weights of update τ ≤ t have the share f(τ) = (γ+1) τ^γ / t^(γ+1) in the
average, whatever t is. The width of f is a share of t:

    std² = (γ + 1) / ((γ + 2)² (γ + 3))                                                        (123)

Reference:
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2024),
    section 3 and appendix C, whose numbers the equations have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_dit.serialization import Configurable, register

__all__ = ["Power", "exponent", "width"]

WIDEST = 12**-0.5  # of γ = 0, the plain mean of all updates


def width(exponent: Any) -> Any:
    """The width of the power profile with the exponent γ, as a share of the training's length.

    Args:
        exponent: γ, at least 0; a number or an array.

    Example:

    >>> round(float(width(6.94)), 3)
    0.1

    Reference:
        Karras et al. (2024), equation 123.
    """
    g = np.float64(exponent)
    return np.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3)))


def exponent(std: float) -> float:
    """The exponent γ of the power profile that wide: the inverse of `width`.

    Args:
        std: width as a share of the training's length, above 0 and at most 1/√12 = 0.289.

    Raises:
        ValueError: for a width that no such profile has.

    Example:

    >>> round(exponent(0.05), 2)
    16.97

    Reference:
        Karras et al. (2024), equation 126: the largest root of γ³ + 7γ² + (16 − s) γ + 12 − s
        with s = std⁻².
    """
    if not 0 < std <= WIDEST * (1 + 1e-9):
        raise ValueError(f"std must be above 0 and at most {WIDEST:.4g}. Received: std={std!r}")
    s = float(std) ** -2
    return max(float(np.roots([1, 7, 16 - s, 12 - s]).real.max()), 0.0)


class Exponential:
    """The average with a decay that it grows into.

    Args:
        decay: in [0, 1).

    Raises:
        ValueError: for another decay.
    """

    # Not a frozen dataclass, which torch.compile does not take into a step.
    def __init__(self, decay: float):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema must be None or in [0, 1). Received: ema={decay!r}")
        self.decay = decay

    def rate(self, n: Any) -> Any:
        """By which share the average moves to the weights at update n, float32 tensors."""
        return 1.0 - ops.minimum(self.decay, n / (n + 10.0))


@register
@dataclass(frozen=True)
class Power(Configurable):
    """Averages whose length grows with the training: `Diffusion(ema=Power((0.05, 0.10)))`.

    Each costs a float32 copy of the weights. The last one, the widest, is the model's average: what
    `generate` and `evaluate` use. With the snapshots that a `Snapshots` writes of two of them an
    average of any length can be had afterwards: `load`.

    Args:
        stds: widths as shares of the training's length, rising, each above 0 and below 0.289.

    Raises:
        ValueError: for other widths.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=8, depth=1, num_heads=2)
    >>> diffusion = keras_dit.Diffusion(network, ema=Power((0.05, 0.10)))

    Reference:
        Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2024).
    """

    stds: Sequence[float] = (0.05, 0.10)

    example = "averages.Power((0.05, 0.10))"

    def __post_init__(self):
        stds = tuple(map(float, self.stds))
        object.__setattr__(self, "stds", stds)  # also of the list that a file has
        if not stds or list(stds) != sorted(set(stds)):
            raise ValueError(f"stds must be rising numbers. Received: stds={stds}")
        for std in stds:
            exponent(std)


class PowerProfile:
    """One average of `Power`.

    Args:
        std: its width.
    """

    def __init__(self, std: float):
        self.std, self.power = std, exponent(std) + 1.0

    def rate(self, n: Any) -> Any:
        """By which share the average moves to the weights at update n, float32 tensors."""
        # (127); 1 − (1 − 1/t)^power as written would lose its digits at large t.
        return -ops.expm1(self.power * ops.log1p(-1.0 / (n + 1.0)))


def of(ema: Any) -> tuple:
    """The profiles that `Diffusion(ema=)` asks for, the model's own the last.

    Args:
        ema: a decay, or a `Power`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(ema, Power):
        return tuple(PowerProfile(std) for std in ema.stds)
    if isinstance(ema, (int, float, np.number)):
        return (Exponential(float(ema)),)
    raise ValueError(
        f"ema must be None, a decay in [0, 1) or {Power.example}. Received: ema={ema!r}"
    )
