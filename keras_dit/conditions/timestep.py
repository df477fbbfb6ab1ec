"""Time -> vector."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.serialization import register


@register
class TimestepEmbedding(keras.layers.Layer):
    """Time -> vector: sine and cosine features, then an MLP.

        [cos(t ω_i), sin(t ω_i)],   ω_i = exp(−ln(10000) i / (F/2 − shift)),   i < F/2

    The features are float32 under any dtype policy, since bfloat16 cannot tell t = 999 from 1000.

    Args:
        hidden_size: width D of the embedding; None: that of the network it is passed to.
        frequency_size: number F of features, even.
        frequency_shift: 0 as in DiT; 1 as in diffusers.
        frequency_range: the highest ω and the one that the lowest comes near to, 1 and 1/10000 as
            in DiT. For times in [0, 1] of whose network derivatives are taken: 4 and 0.5.

    Call:
        t (B,), float, on the schedule's scale (DDPM: 0 … 999) -> (B, D).

    Example:

    >>> embedding = TimestepEmbedding(hidden_size=16)
    >>> embedding(np.array([0.0, 499.5, 999.0])).shape
    (3, 16)

    Reference:
        Peebles, Xie: Scalable Diffusion Models with Transformers (2023), appendix A.
    """

    def __init__(
        self,
        hidden_size: int | None = None,
        frequency_size: int = 256,
        frequency_shift: int = 0,
        frequency_range: Sequence[float] = (1.0, 1e-4),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.hidden_size = hidden_size
        self.frequency_size = frequency_size
        self.frequency_shift = frequency_shift
        self.frequency_range = tuple(map(float, frequency_range))

    def build(self, input_shape: tuple | None = None) -> None:
        def dense(name):
            return keras.layers.Dense(
                self.hidden_size,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
                dtype=self.dtype_policy,
                name=name,
            )

        self.mlp_in, self.mlp_out = dense("mlp_in"), dense("mlp_out")
        self.mlp_in.build((None, self.frequency_size))
        self.mlp_out.build((None, self.hidden_size))

    def call(self, t: Any) -> Any:
        half = self.frequency_size // 2
        highest, lowest = self.frequency_range
        features = sines(t, half, highest, lowest, self.frequency_shift)  # (B, F)
        x = self.mlp_in(ops.cast(features, self.compute_dtype))
        return self.mlp_out(ops.silu(x))  # (B, D)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape, self.hidden_size)

    def get_config(self) -> dict:
        own = {
            "hidden_size": self.hidden_size,
            "frequency_size": self.frequency_size,
            "frequency_shift": self.frequency_shift,
            "frequency_range": list(self.frequency_range),
        }
        return {**super().get_config(), **own}


def sines(x: Any, count: int, highest: float, lowest: float, shift: int = 0) -> Any:
    """Cosines and sines of numbers, float32.

        ω_i = highest exp(−ln(highest / lowest) i / (count − shift)),   i < count

    Args:
        x: numbers (...).
        count: of the frequencies.
        highest, lowest: in radians per unit; the lowest is reached with a shift of 1.
        shift: 0 or 1.

    Returns:
        Tensor (..., 2 count).

    Example:
        >>> ops.convert_to_numpy(sines(np.zeros(1), 2, 1.0, 0.1)).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    index = np.arange(count, dtype="float64")
    frequency = highest * np.exp(-math.log(highest / lowest) * index / (count - shift))
    angle = ops.expand_dims(ops.cast(x, "float32"), -1) * ops.convert_to_tensor(
        frequency, "float32"
    )
    return ops.concatenate([ops.cos(angle), ops.sin(angle)], axis=-1)
