"""Numbers: attributes, measurements, a pooled embedding of another network."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.conditions.base import Condition, Context
from keras_dit.serialization import register


@register
class Vector(Condition):
    """So many numbers -> a vector. NaN stands for a number that is not known.

        [z, k] -> Dense -> SiLU -> Dense,   z = (x − mean) / std where k, else 0;   k = x is known

    A number that comes round again after a period p, such as an angle or the day of a year, is a
    point on a circle, z = cos(2π x / p) and sin(2π x / p), so that both ends are neighbours.

    Every number may be unknown by itself: the null value is that none is known.

    Args:
        size: how many numbers a sample has.
        mean, std: of each number, or one for all, so that z is of about unit size.
        period: of each number, or one for all; None for one that does not come round.
        hidden_size, dropout: as for every `Condition`.

    Call:
        values (B, size), float -> `Context` with a vector (B, D).

    Raises:
        ValueError: if the size is below 1, or a std or a period is not positive.

    Example:
        >>> age_and_angle = Vector(2, mean=40, std=20, period=(None, 360), hidden_size=8)
        >>> value = age_and_angle.check([[25, 90], [61, float("nan")]])
        >>> age_and_angle(value).vector.shape == (2, 8)
        True
    """

    def __init__(
        self,
        size: int,
        mean: Any = 0.0,
        std: Any = 1.0,
        hidden_size: int | None = None,
        period: Any = None,
        **kwargs,
    ):
        super().__init__(hidden_size, **kwargs)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be an integer of 1 or more. Received: size={size!r}")
        self.size = size
        self.mean, self.std = _numbers("mean", mean, size), _numbers("std", std, size)
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0. Received: std={std!r}")
        self.period = _periods(period, size)

    def build(self, input_shape: tuple | None = None) -> None:
        self.mlp_in = self._dense("mlp_in")
        self.mlp_out = self._dense("mlp_out")
        circles = sum(period is not None for period in self.period)
        self.mlp_in.build((None, 2 * self.size + circles))
        self.mlp_out.build((None, self.hidden_size))

    def _dense(self, name):
        return keras.layers.Dense(
            self.hidden_size,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name=name,
        )

    def check(self, values: Any, count: int | None = None) -> np.ndarray:
        """Numbers as numpy float32 (n, size); None in a list stands for "none is known"."""
        if not hasattr(values, "shape"):
            values = [np.full(self.size, np.nan) if row is None else row for row in values]
        try:
            array = np.asarray(values, "float32")
        except (TypeError, ValueError):
            array = np.zeros(0)
        if self.size == 1 and array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != self.size or np.isinf(array).any():
            raise ValueError(
                f"{self.name} must be finite numbers of shape (n, {self.size}), NaN where one is "
                f"not known. Received: {np.shape(values)}"
            )
        if count is not None and len(array) != count:
            raise ValueError(f"{self.name} must be {count} in number. Received: {len(array)}")
        return array

    def null(self, count: int) -> np.ndarray:
        return np.full((count, self.size), np.nan, "float32")

    def prepare(self, values: Any) -> Any:
        return ops.reshape(ops.cast(values, "float32"), (-1, self.size))

    def embed(self, values: Any) -> Any:
        known = ops.logical_not(ops.isnan(values))
        mean, std = (ops.convert_to_tensor(x, "float32") for x in (self.mean, self.std))
        scaled = (values - mean) / std
        if any(self.period):
            scaled = self._on_circles(values, scaled)
        scaled = ops.where(ops.isnan(scaled), 0.0, scaled)
        features = ops.concatenate([scaled, ops.cast(known, "float32")], axis=-1)  # (B, 2 size + c)
        x = self.mlp_in(ops.cast(features, self.compute_dtype))
        return Context(vector=self.mlp_out(ops.silu(x)))  # (B, D)

    def _on_circles(self, values, scaled):
        """The numbers with cosines of those that have a period, and the sines of these."""
        turns = np.array([0.0 if p is None else 2 * np.pi / p for p in self.period])
        round_again = turns > 0
        angle = values * ops.convert_to_tensor(turns, "float32")
        cosines = ops.where(ops.convert_to_tensor(round_again), ops.cos(angle), scaled)
        sines = ops.take(ops.sin(angle), np.flatnonzero(round_again), axis=-1)
        return ops.concatenate([cosines, sines], axis=-1)  # (B, size + c)

    def silence(self) -> bool:
        for weight in self.mlp_out.weights:
            weight.assign(np.zeros(weight.shape, "float32"))
        return True

    def get_config(self) -> dict:
        own = {"size": self.size, "mean": list(self.mean), "std": list(self.std)}
        own |= {"period": list(self.period)} if any(self.period) else {}
        return {**super().get_config(), **own}


def _numbers(name, value, size):
    array = np.broadcast_to(np.asarray(value, "float64"), (size,))
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite. Received: {name}={value!r}")
    return tuple(map(float, array))


def _periods(period, size):
    """A positive number for each, or None."""
    each = tuple(period) if isinstance(period, (tuple, list)) else (period,) * size
    if len(each) != size or not all(p is None or 0 < p < float("inf") for p in each):
        raise ValueError(
            f"period must be above 0 or None, one for all or each of {size}. "
            f"Received: period={period!r}"
        )
    return tuple(p if p is None else float(p) for p in each)
