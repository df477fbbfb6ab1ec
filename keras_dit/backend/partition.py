"""Form and numbers: what a program is compiled for, and what it is given at each call.

A scale of guidance is a number: another one needs no other program. The class of the guidance is
form: another one does. `partition` takes any tree apart into the two, `combine` puts them together.

Reference:
    Kidger, Garcia: Equinox (2021), whose `partition` and `combine` do so for JAX.
"""

import dataclasses
import types
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dit.backend.selection import BACKEND
from keras_dit.serialization import is_number


class _Number:
    """Stands in a form for the next of the numbers."""

    def __repr__(self):
        return "number"


class _Static(NamedTuple):
    """What is its own form; the kind tells 1, 1.0 and True apart."""

    kind: type
    value: Hashable


class _Function:
    """A function of Python: one that is made anew of the same code and values is the same.

    So a lambda in an argument needs no other program at each call.
    """

    def __init__(self, function):
        self.function = function
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # one that is empty yet
            cells = [function]
        beside = [function.__kwdefaults__, vars(function) or None]
        held = [*cells, *(function.__defaults__ or ()), *beside]
        # Whatever is no plain value counts by its identity; the function keeps it alive.
        plain = (int, float, str, bool, type(None))
        values = [(type(x), x if isinstance(x, plain) else id(x)) for x in held]
        self.facts = function.__code__, id(function.__globals__), tuple(values)

    def __eq__(self, other):
        return isinstance(other, _Function) and self.facts == other.facts

    def __hash__(self):
        return hash(self.facts)


class _Node(NamedTuple):
    """A container or a dataclass, by the names of its parts."""

    kind: type
    names: tuple | None
    parts: tuple


_NUMBER = _Number()


def partition(tree: Any) -> tuple[Hashable, list]:
    """Take a tree apart.

    Args:
        tree: tuples, named tuples, lists, dicts and frozen dataclasses, nested. Its numbers are
            tensors, numpy arrays, Keras variables, and what stands in the fields of dataclasses
            that are made by `serialization.number`: numbers or tuples of numbers.

    Returns:
        The form, which can be compared and hashed, and the numbers, a list of tensors and arrays.

    Example:
        >>> form, numbers = partition({"x": np.ones(2), "name": "a"})
        >>> numbers
        [array([1., 1.])]
    """
    numbers: list = []
    return _take(tree, numbers), numbers


def combine(form: Hashable, numbers: Sequence) -> Any:
    """The tree of that form with these numbers, which may be those of another tree of that form."""
    return _put(form, iter(numbers))


def _take(tree, numbers, numeric=False):
    if isinstance(tree, keras.Variable):
        tree = tree.value
    if numeric and _is_numeric(tree):
        tree = _array(tree)
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        numbers.append(tree)
        return _NUMBER
    kind = type(tree)
    if isinstance(tree, dict):
        return _Node(kind, tuple(tree), tuple([_take(x, numbers, numeric) for x in tree.values()]))
    if isinstance(tree, (tuple, list)):
        return _Node(kind, None, tuple([_take(x, numbers, numeric) for x in tree]))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return _take_fields(tree, numbers)
    return _Function(tree) if kind is types.FunctionType else _Static(kind, tree)


def _take_fields(tree, numbers):
    fields, before = dataclasses.fields(tree), len(numbers)
    parts = [_take(getattr(tree, f.name), numbers, is_number(f)) for f in fields]
    names = tuple(f.name for f in fields)
    calls = any(isinstance(part, _Function) for part in parts)
    beside = set(getattr(tree, "__dict__", ())) - set(names)
    if len(numbers) == before and (beside or not calls):
        return _Static(type(tree), tree)  # it is its own form, whatever it holds beside its fields
    return _Node(type(tree), names, tuple(parts))


def _put(form, numbers):
    if form is _NUMBER:
        return next(numbers)
    if isinstance(form, _Static):
        return form.value
    if isinstance(form, _Function):
        return form.function
    kind, parts = form.kind, [_put(part, numbers) for part in form.parts]
    if issubclass(kind, dict):
        return kind(zip(form.names, parts))
    if issubclass(kind, (tuple, list)):
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    # Not by __init__: its checks are for numbers of the host, and these may be symbols.
    made = object.__new__(kind)
    for name, part in zip(form.names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made


def _is_numeric(value):
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_numeric, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _array(value):
    array = np.asarray(value)
    return array.astype("float32" if array.dtype.kind == "f" else "int32")


def tensors(numbers: Sequence) -> list:
    """The numbers as tensors of the backend, on its device."""
    is_tensor = ops.is_tensor
    return [x if is_tensor(x) else ops.convert_to_tensor(x) for x in numbers]


def signature(numbers: Sequence) -> tuple:
    """What a program is compiled for beside the form: the shape and dtype of each tensor."""
    if BACKEND == "torch":
        return tuple([(x.shape, x.dtype, x.device) for x in numbers])
    return tuple([(tuple(x.shape), x.dtype) for x in numbers])
