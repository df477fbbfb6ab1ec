"""How a function is compiled."""

import functools
from collections.abc import Callable
from typing import Any

from keras_dit.backend.host import as_they_come, without_waits
from keras_dit.backend.partition import combine, partition, signature, tensors
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf


PROGRAMS = 32  # of a function, at most: beyond, the one that was not used for longest goes


def compile_inference(function: Callable, jit_compile: bool | str = "auto") -> Callable:
    """Compile a pure function for repeated calls without gradients.

    Args:
        function: takes and returns trees, as `partition` takes them apart. One program is made
            for each form of its arguments and for the shapes and dtypes of their numbers; other
            numbers of those shapes need no other program.
        jit_compile: True: by the backend's compiler (XLA, torch.compile); False: not by it;
            "auto": in the form that measures fastest, the time to compile counted.

    Returns:
        A callable with the same signature. "auto" is `jax.jit` on JAX and `tf.function` through
        XLA on TensorFlow; on torch it is, from the third call on, the record of the operations
        that `function` comes to: it takes half a second to make and spares what Python does
        between operations, a seventh of the time of DiT-S/4; torch.compile takes ten seconds and
        is no faster on a CPU. On a GPU the record is captured as a CUDA graph, which starts all
        of its operations at once.

    Example:
        >>> double = compile_inference(lambda x: 2.0 * x)
        >>> float(double(ops.ones(())))
        2.0
    """

    @functools.lru_cache(maxsize=PROGRAMS)
    def program(form, signature):
        return _Program(function, form, jit_compile)

    def call(*arguments):
        form, numbers = partition(arguments)
        numbers = tensors(numbers)
        return program(form, signature(numbers))(numbers)

    return call


class _Program:
    """A function for one form of its arguments: numbers -> its results."""

    def __init__(self, function, form, jit_compile):
        result_form = None

        def flat(numbers):
            nonlocal result_form
            result_form, results = partition(function(*combine(form, numbers)))
            return results

        self.run = _compiled(flat, jit_compile)
        self.result = lambda results: combine(result_form, results)

    def __call__(self, numbers):
        return self.result(self.run(numbers))


def _compiled(function, jit_compile):
    """A function from a list of tensors to a list of tensors, always of the same shapes."""
    if BACKEND == "jax":
        return jax.jit(function) if jit_compile else function
    if BACKEND == "tensorflow":
        return tf.function(function, jit_compile=bool(jit_compile), autograph=False)
    function = _sending(function)
    if not jit_compile:
        return torch.inference_mode()(function)
    # What a run does but once, such as its last step, does not pay for being recorded.
    return _recorded_after(2 if jit_compile == "auto" else 0, function, jit_compile)


def _sending(function):
    def call(numbers):
        with without_waits():
            return function(numbers)

    return call


def _recorded_after(plain_calls, function, jit_compile):
    calls, record = 0, None

    @torch.inference_mode()
    def call(numbers):
        nonlocal calls, record
        calls += 1
        if calls <= plain_calls:
            return function(numbers)
        if record is None:
            record = _record_to_run(function, numbers, jit_compile)
        return record(numbers)

    return call


def _record_to_run(function, numbers, jit_compile):
    """The function as a record, in the form that runs best, or as it is if it cannot be one."""
    table = _understood_by_torch_compile() if jit_compile is True else None
    record = recorded(function, numbers, table)
    if record is None:
        return function
    on_gpu = bool(numbers) and all(captures(x.device.type) for x in numbers)
    if jit_compile is True:
        mode = "reduce-overhead" if on_gpu else None
        compiled = torch.compile(record, dynamic=False, mode=mode)
        return _copying(compiled) if on_gpu else compiled
    return captured(record) if on_gpu else record


def recorded(function: Callable, numbers: list, decompositions: dict | None = None) -> Any:
    """The operations of torch that a function comes to, as a function itself; none is computed.

    Args:
        function: list of tensors -> list of tensors.
        numbers: of the shapes, dtypes and devices that it is to be recorded for.
        decompositions: what to put in the place of an operation.

    Returns:
        A function of such lists, or None if it cannot be recorded, since it looks at numbers to go
        on. What the function reads beside its arguments, it reads anew, if it is still there.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    recorder = make_fx(
        function,
        decomposition_table=decompositions,
        tracing_mode="fake",  # no number is computed
        _allow_non_fake_inputs=True,
    )
    try:
        with torch.inference_mode(False), torch.no_grad(), as_they_come():
            record = recorder(numbers)
    except Exception:  # whatever it is that cannot be recorded can be run
        return None
    record.graph.eliminate_dead_code()
    record.recompile()
    return record


def captures(device: str) -> bool:
    """Whether torch runs a record on a kind of device as a CUDA graph, where "auto" is asked for.

    A step of DiT-S comes to five hundred operations. Python starts one in 5 to 10 microseconds, so
    that a GPU would wait for it wherever a step takes it less than some milliseconds.
    """
    return device == "cuda"


def captured(record: Callable) -> Callable:
    """A record as a CUDA graph, captured at its first call; as it is once that does not work."""
    graph = _copying(torch.compile(record, backend="cudagraphs", dynamic=False))
    usable = True

    def call(numbers):
        nonlocal usable
        if usable:
            try:
                return graph(numbers)
            except Exception:  # such as another thread's call, or memory for the copy of the inputs
                usable = False
        return record(numbers)

    return call


def _copying(compiled):
    """A CUDA graph reads and writes the same memory each time: what it gave is copied from there.

    What it is given torch copies there itself, the weights too, which a graph then holds twice.
    """

    def call(numbers):
        torch.compiler.cudagraph_mark_step_begin()
        with as_they_come():
            return [result.clone() for result in compiled(numbers)]

    return call


def _understood_by_torch_compile():
    """What it puts in the place of an operation that it makes itself and does not take."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch is built without oneDNN
        return {}

    def linear_pointwise(x, weight, bias, activation, _, form):
        y = torch.nn.functional.linear(x, weight, bias)
        return y if activation == "none" else torch.nn.functional.gelu(y, approximate=form)

    return {torch.ops.mkldnn._linear_pointwise.default: linear_pointwise}


def compiles(jit_compile: bool | str = "auto") -> bool:
    """Whether the first call of what `compile_inference` gives waits for a compiler."""
    return jit_compile is True if BACKEND == "torch" else bool(jit_compile)


def jit_compile_training(devices: int = 1) -> bool:
    """Whether `fit` is faster through its backend's compiler, as a `jit_compile=` for Keras.

    Keras's own "auto" leaves TensorFlow without XLA on a CPU, where it trains at less than half
    of the speed; torch.compile does not pay for its start on small runs. A program of XLA on
    TensorFlow is of one device.

    Args:
        devices: that share a batch.
    """
    return BACKEND == "jax" or (BACKEND == "tensorflow" and devices == 1)


def jit_compile_convolutions(large=False):
    """How to compile a network of convolutions, as a `jit_compile=` for `compile_inference`.

    TensorFlow's own convolutions run on a CPU at two to three times the rate of XLA's.

    Args:
        large: whether images are so large that what Python does between torch's operations costs
            nothing beside them.
    """
    if BACKEND == "tensorflow" and not tf.config.list_physical_devices("GPU"):
        return False
    return False if BACKEND == "torch" and large else "auto"
