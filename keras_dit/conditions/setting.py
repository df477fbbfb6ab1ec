"""Numbers that the process tells the network, such as how far a step goes."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.conditions.base import Condition, Context
from keras_dit.conditions.timestep import sines
from keras_dit.serialization import register


@register
class Setting(Condition):
    """Numbers of about unit size that are set by the process, not by who uses the network.

        [cos(x ω_i), sin(x ω_i)] of each number x -> Dense -> SiLU -> Dense

    They do not count among what a user tells the network: `fit` and `generate` are given what they
    would be given without them. Nor are they dropped in training. The last map starts at zero, so
    that a trained network that gets a setting gives what it gave before.

    Args:
        null: the value of each number where nobody sets them, which makes their number.
        frequencies: how many ω_i there are.
        frequency_range: the highest of them and the lowest, in radians per unit. A network whose
            derivative with respect to the number is taken wants low ones.
        hidden_size: width D of what it gives; None: that of the network it is passed to.

    Call:
        values (B, size), float -> `Context` with a vector (B, D).

    Raises:
        ValueError: if there is no number, one is not finite, or a frequency is not positive.

    Example:
        >>> setting = Setting(null=(0.0, 1.0), hidden_size=8)
        >>> setting.null(3).tolist()
        [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
        >>> setting(setting.null(3)).vector.shape == (3, 8)
        True

    Reference:
        Geng et al., Mean Flows for One-step Generative Modeling (2025), section 4.1, which tells
        the network both ends of a step; Geng et al., Improved Mean Flows (2025), section 4.2,
        which tells it the scale of guidance too.
    """

    of_process = True

    def __init__(
        self,
        null: Sequence[float] = (0.0,),
        frequencies: int = 64,
        frequency_range: Sequence[float] = (4.0, 0.5),
        hidden_size: int | None = None,
        **kwargs,
    ):
        super().__init__(hidden_size, **kwargs)
        self.nothing = tuple(map(float, null))
        if not self.nothing or not all(map(math.isfinite, self.nothing)):
            raise ValueError(f"null must be finite numbers, one or more. Received: null={null!r}")
        if not isinstance(frequencies, int) or frequencies < 1 or min(frequency_range) <= 0:
            raise ValueError(
                "frequencies must be an integer of 1 or more, of a range above 0. "
                f"Received: frequencies={frequencies!r}, frequency_range={frequency_range!r}"
            )
        self.frequencies = frequencies
        self.frequency_range = tuple(map(float, frequency_range))

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return len(self.nothing)

    @property
    def words(self) -> str:
        return f"{self.size} number{'s' * (self.size > 1)} that the process sets"

    def build(self, input_shape: tuple | None = None) -> None:
        def dense(name, **settings):
            return keras.layers.Dense(
                self.hidden_size, dtype=self.dtype_policy, name=name, **settings
            )

        self.mlp_in, self.mlp_out = dense("mlp_in"), dense("mlp_out", kernel_initializer="zeros")
        self.mlp_in.build((None, 2 * self.frequencies * self.size))
        self.mlp_out.build((None, self.hidden_size))

    def silence(self) -> bool:
        for weight in self.mlp_out.weights:
            weight.assign(np.zeros(weight.shape, "float32"))
        return True

    def check(self, values: Any, count: int | None = None) -> np.ndarray:
        """Refused: they are not for users to say."""
        raise ValueError(f"{self.name} is set by the process: leave it out")

    def null(self, count: int) -> np.ndarray:
        return np.tile(np.array(self.nothing, "float32"), (count, 1))

    def prepare(self, values: Any) -> Any:
        return ops.reshape(ops.cast(values, "float32"), (-1, self.size))

    def embed(self, values: Any) -> Context:
        highest, lowest = self.frequency_range
        features = sines(values, self.frequencies, highest, lowest)  # (B, size, 2 F)
        features = ops.reshape(features, (-1, 2 * self.frequencies * self.size))
        x = self.mlp_in(ops.cast(features, self.compute_dtype))
        return Context(vector=self.mlp_out(ops.silu(x)))  # (B, D)

    def get_config(self) -> dict:
        base = super().get_config()
        own = {
            "null": list(self.nothing),
            "frequencies": self.frequencies,
            "frequency_range": list(self.frequency_range),
        }
        return {**base, **own}
