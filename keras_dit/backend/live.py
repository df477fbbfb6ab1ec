"""What a model's variables hold while one thread trains and another wants to read them.

On JAX Keras takes the values out of the variables while it trains, and a step takes the memory of
the values that it is given (donation). On torch and TensorFlow a step changes them in place. So
whoever reads them meanwhile needs copies, made between two steps.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import keras
from keras import ops

from keras_dit.backend.replicas import own, processes
from keras_dit.backend.selection import BACKEND

__all__ = ["LiveValues"]

# Private name of Keras: what a variable holds, None while the trainer on JAX has it.
VALUE = "_value"


class LiveValues:
    """The values of a model's variables, for threads beside the one that trains.

    Example:
        >>> network, live = keras_dit.DiTModel((8, 8, 1), 2, 16, 1, 2), LiveValues()
        >>> live.taken(network, network.weights)[0] is network.weights[0]  # nothing runs
        True
    """

    def __init__(self):
        # Who waits for the end of a step holds the turn, so that no other step begins before.
        self._turn, self._step = threading.RLock(), threading.RLock()
        self._runs = 0
        self._state = None  # JAX: the values of the last step, by the groups of Keras's trainer

    @contextlib.contextmanager
    def running(self) -> Iterator[bool]:
        """While this runs the model is trained or tested; gives whether nothing else did."""
        with self._turn, self._step:
            self._runs += 1
            alone = self._runs == 1
        try:
            yield alone
        finally:
            with self._turn, self._step:
                self._runs -= 1
                if not self._runs:
                    self._state = None

    @contextlib.contextmanager
    def idle(self) -> Iterator[bool]:
        """Gives whether nothing runs; while this does, nothing begins."""
        with self._turn, self._step:
            yield not self._runs

    def watched(self, function: Callable) -> Callable:
        """A step of Keras's trainer that nobody reads variables during."""

        def step(*arguments):
            with self._turn:
                self._step.acquire()
            try:
                result = function(*arguments)
                if BACKEND == "jax":  # (logs, state)
                    self._state = result[1]
                return result
            finally:
                self._step.release()

        return step

    def taken(self, model: keras.Model, variables: Sequence) -> Sequence:
        """Values that stay as they are while a run needs them.

        Args:
            model: whose steps are `watched`.
            variables: of the model.

        Returns:
            The variables where nothing runs, in the main thread; else a tensor for each, a copy.
            Of several processes of JAX each has its own, so that it need not wait for the others.
        """
        main = threading.current_thread() is threading.main_thread()
        if not self._runs and main and (BACKEND != "jax" or processes()[1] == 1):
            return variables
        while True:
            with self._turn, self._step:
                values = self._values(model, variables)
                if values is not None:
                    return [ops.copy(ops.stop_gradient(value)) for value in own(values)]
            time.sleep(0.001)  # the trainer has taken them, and its first step has not begun

    @contextlib.contextmanager
    def reading(self, model: keras.Model, variables: Sequence) -> Iterator[None]:
        """While this does, this thread finds in the variables values that stay as they are.

        Args:
            model, variables: as for `taken`.
        """
        values = self.taken(model, variables)
        if values is variables:
            yield
            return
        scope = keras.StatelessScope()
        for pair in zip(variables, values, strict=True):
            scope.add_update(pair)
        with scope:
            yield

    def _values(self, model, variables):
        """What each variable holds, or the trainer for it; None where that is not to be had yet."""
        if BACKEND != "jax" or not self._runs:
            return [variable.value for variable in variables]
        groups = (model.trainable_variables, model.non_trainable_variables)
        # Not strict: a step of testing has other groups after these.
        state = {id(v): x for group in zip(groups, self._state or ()) for v, x in zip(*group)}
        held = [getattr(variable, VALUE) for variable in variables]
        values = [state.get(id(v)) if _is_gone(x) else x for v, x in zip(variables, held)]
        return None if any(map(_is_gone, values)) else values


def _is_gone(value):
    return value is None or value.is_deleted()
