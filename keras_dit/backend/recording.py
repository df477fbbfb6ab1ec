"""The gradient of a training step as one CUDA graph of torch."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dit.backend import compiling
from keras_dit.backend.partition import combine, partition, signature, tensors
from keras_dit.backend.selection import BACKEND

if BACKEND == "torch":
    import torch

__all__ = ["GradientPrograms"]

PLAIN = 2  # steps, before one is recorded


class GradientPrograms:
    """The gradients that a model's steps have been recorded as, on a GPU under torch.

    Loss and gradient of DiT-S/4 are 1,900 operations, of which Python starts one in 5 to 10
    microseconds: a GPU that needs less time than that for them would wait. A CPU does not: there
    the record takes as long as the step itself, bit for bit the same, and nothing is recorded.

    It is to be made anew where another objective is trained or another part of the network.
    """

    def __init__(self):
        self._made, self._steps = {}, collections.Counter()

    def find(
        self, objective: Callable, given: tuple, variables: Sequence, moved: Sequence
    ) -> Callable[[], tuple] | None:
        """The gradient of `objective(*given)` as `backend.gradients` gives it, or None.

        None: where nothing is recorded, and of what cannot be, such as a network that draws random
        numbers or moves variables.
        """
        values = [v.value for v in variables]
        if not values or not all(compiling.captures(x.device.type) for x in values):
            return None
        if torch.compiler.is_compiling():  # the whole step
            return None
        form, numbers = partition(given)
        numbers = tensors(numbers)
        key = form, signature(numbers), tuple(map(id, values))
        self._steps[key] += 1
        if self._steps[key] <= PLAIN:
            return None
        if key not in self._made:
            self._made[key] = _Program(objective, form, numbers, variables, moved)
        program = self._made[key]
        return None if program.run is None else lambda: program(numbers)


class _Program:
    """The record for batches of one form; `run` is None if there can be none."""

    def __init__(self, objective, form, numbers, variables, moved):
        self.values = [v.value for v in variables]  # so that no other gets the id of one
        self.places: list[int] = []  # of the variables that have a gradient
        bound = {id(v) for v in variables}
        others = [v for v in moved if id(v) not in bound]

        def flat(given):
            weights, numbers = given[: len(variables)], given[len(variables) :]
            with torch.enable_grad():
                weights = [w.detach().requires_grad_() for w in weights]
                with keras.StatelessScope(list(zip(variables, weights))) as scope:
                    scalar, other = objective(*combine(form, numbers))
                if any(scope.get_current_value(v) is not None for v in others):
                    raise NotImplementedError("a variable is moved")
                found = torch.autograd.grad(scalar, weights, allow_unused=True)
            self.places = [i for i, gradient in enumerate(found) if gradient is not None]
            return [*(found[i] for i in self.places), other.detach()]

        record = compiling.recorded(flat, [*self.values, *numbers])
        self.run = None if record is None else compiling.captured(record)

    def __call__(self, numbers: list) -> tuple[list, Any]:
        with torch.no_grad():
            *found, other = self.run([*(x.detach() for x in self.values), *numbers])
        gradients: list = [None] * len(self.values)
        for place, gradient in zip(self.places, found, strict=True):
            gradients[place] = gradient
        return gradients, other
