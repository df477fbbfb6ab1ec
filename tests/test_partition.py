"""Laws of form and numbers: what a program is compiled for, and what it is given at each call."""

import dataclasses
import gc
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import backend
from keras_dit.backend import combine, partition
from keras_dit.backend.compiling import PROGRAMS
from keras_dit.serialization import number


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Scaled:
    scale: Any = number(2.0)
    name: str = "a"

    def __post_init__(self):
        if self.scale <= 0:  # a check that symbols and arrays cannot pass
            raise ValueError

    def __call__(self, x):
        return x * self.scale


@dataclass(frozen=True)
class Nested:
    inner: Any
    count: int = 3


TREES = [
    None,
    "name",
    (),
    {"x": np.ones(2), "y": [None, (np.zeros(3), "a")]},
    Pair(np.ones(2), Pair(1, None)),
    Scaled(),
    Nested([Scaled(3.0), Nested(None)]),
]


def scaled_by(k, other=None):
    """A function made anew at each call."""
    return Nested(lambda t: k * t if other is None else k)


def test_a_function_made_anew_of_the_same_values_has_the_same_form():
    things = [1], [1]
    form, numbers = partition(scaled_by(2.0))
    assert partition(scaled_by(2.0))[0] == form
    assert hash(partition(scaled_by(2.0))[0]) == hash(form)
    assert combine(form, numbers).inner(3.0) == 6.0
    for k, other in ((3.0, None), (2, None), (2.0, things[0])):
        assert partition(scaled_by(k, other))[0] != form
    assert partition(scaled_by(2.0, things[0]))[0] == partition(scaled_by(2.0, things[0]))[0]
    assert partition(scaled_by(2.0, things[0]))[0] != partition(scaled_by(2.0, things[1]))[0]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_form_and_numbers_are_the_tree_again(tree):
    form, numbers = partition(tree)
    hash(form)
    again = combine(form, numbers)
    assert type(again) is type(tree)
    again_form, again_numbers = partition(again)
    assert again_form == form
    for one, other in zip(numbers, again_numbers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_arrays_tensors_variables_and_number_fields_are_numbers():
    variable = keras.Variable(np.ones(2, "float32"))
    tree = [np.ones(1), ops.ones(2), variable, np.float32(1), Scaled(2.0), Scaled(2, "b")]
    form, numbers = partition(tree)
    assert len(numbers) == len(tree)
    assert not isinstance(numbers[2], keras.Variable)
    assert numbers[4] == 2.0
    assert partition([*tree[:4], Scaled(7.0), Scaled(5, "b")])[0] == form
    assert partition([*tree[:4], Scaled(7.0), Scaled(5, "c")])[0] != form


def test_a_tuple_in_a_number_field_is_one_array():
    _, numbers = partition(_Series((1.0, 2.5)))
    assert len(numbers) == 1
    np.testing.assert_array_equal(numbers[0], np.array([1.0, 2.5], "float32"))
    assert partition(_Series((1.0, 2.0)))[0] == partition(_Series((3.0, 4.0)))[0]


@dataclass(frozen=True)
class _Series:
    values: Any = number()


@pytest.mark.parametrize("values", [(1, True), (1, 1.0), (0.5, 0.25), ("a", "b"), (None, 0)])
def test_what_is_no_number_is_form(values):
    forms = [partition({"x": value}) for value in values]
    assert forms[0][0] != forms[1][0]
    assert forms[0][1] == forms[1][1] == []


def test_combining_runs_no_check():
    form, _ = partition(Scaled())
    assert combine(form, [-1.0]).scale == -1.0
    assert combine(form, [np.ones(3)]).name == "a"


def test_numbers_change_without_another_program():
    traces = []

    def function(scaled, x):
        traces.append(scaled.name)
        return dataclasses.replace(Nested(scaled), count=4), scaled(x)

    compiled = backend.compile_inference(function, jit_compile=False)
    if backend.BACKEND != "tensorflow":  # which alone traces without a compiler
        compiled = backend.compile_inference(function)
    x = ops.convert_to_tensor(np.array([1.0, 2.0], "float32"))
    for scale in (2.0, 3.0, 5.0, 7.0, 11.0):
        nested, y = compiled(Scaled(scale), x)
        np.testing.assert_allclose(ops.convert_to_numpy(y), [scale, 2 * scale])
        assert float(ops.convert_to_numpy(nested.inner.scale)) == scale
        assert nested.count == 4
    # torch: two calls as they are before what they do is recorded
    assert len(traces) == (3 if backend.BACKEND == "torch" else 1)


def test_programs_of_things_that_are_gone_go_too():
    """A function that is new at each call is another form; no more than a few are kept."""
    compiled = backend.compile_inference(lambda function, x: function(x), jit_compile=False)
    x, seen = ops.ones(2), []
    for k in range(PROGRAMS + 5):

        def function(x, k=k):
            return x * float(k)

        np.testing.assert_allclose(ops.convert_to_numpy(compiled(function, x)), k)
        seen.append(weakref.ref(function))
    del function
    gc.collect()
    assert sum(one() is not None for one in seen) <= PROGRAMS
    del compiled
    gc.collect()
    assert not any(one() is not None for one in seen)
