"""Several estimates of one batch, under several conditions, in one evaluation."""

from collections.abc import Sequence
from typing import Any

from keras import ops, tree

from keras_dit.schedules import Rates

__all__ = ["estimates_of", "repeated", "with_values"]


def estimates_of(denoiser: Any, conditions: Sequence, x_t: Any, rates: Rates) -> tuple[list, Any]:
    """E[x0 | x_t] under each of the conditions.

    Args:
        denoiser: (x_t, rates, condition) -> `Denoised`.
        conditions: of the batch, of one structure.
        x_t: (B, ...).
        rates: of numbers, or of (B,).

    Returns:
        A list of x0 (B, ...), and the fraction of the variance of the first, or None.
    """
    times, count = len(conditions), ops.shape(x_t)[0]

    def joined(*parts):
        return ops.concatenate(parts, axis=0)

    every = tree.map_structure(joined, *conditions)
    many = rates.each(lambda rate: rate if len(rate.shape) == 0 else joined(*[rate] * times))
    x0, fraction = denoiser(joined(*[x_t] * times), many, every)
    fraction = None if fraction is None else fraction[:count]
    return [x0[i * count : (i + 1) * count] for i in range(times)], fraction


def repeated(values: Any, count: Any) -> Any:
    """Values of one sample, a nest of (1, ...), for so many."""

    def repeat(one):
        one = ops.convert_to_tensor(one)
        return ops.broadcast_to(one, (count, *one.shape[1:]))

    return tree.map_structure(repeat, values)


def with_values(condition: Any, values: dict) -> Any:
    """A batch's condition with other values of those conditions that are named.

    Args:
        condition: a dict by name; or the value of the only condition.
        values: by name, nests of tensors (B, ...).
    """
    if isinstance(condition, dict):
        return {**condition, **values}
    return next(iter(values.values()), condition)
