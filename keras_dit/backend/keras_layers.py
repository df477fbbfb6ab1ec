"""What Keras does around a layer's call and with its dtype policy."""

import contextlib
import gc
from collections.abc import Iterator
from concurrent import futures

import keras

PACKAGE = __name__.partition(".")[0]


def call_layer(layer, x, *others):
    """layer(x, *others), by `layer.call` where all that Keras does around it changes nothing.

    That takes torch, which runs a network operation by operation, a twentieth of the time of a
    small one. It is left out for this package's own layers, inside a layer that was called.

    Args:
        layer: a layer that is built.
        x, *others: the arguments of its call, the first a tensor.
    """
    return layer.call(x, *others) if _is_plain(layer, x) else layer(x, *others)


def _is_plain(layer, x):
    return (
        type(layer).__module__.startswith(PACKAGE + ".")
        and layer.quantization_mode is None
        and layer.activity_regularizer is None
        and layer.compute_dtype == keras.backend.standardize_dtype(x.dtype)
        and not getattr(layer, "_remat_mode", None)  # of `keras.RematScope`
        and keras.distribution.distribution() is None  # else it may have a layout for the output
    )


def saved_policy(model):
    """The dtype policy of a model for its configuration, with those of its quantized layers.

    `quantize` gives each layer a policy of its own, which the model's own does not tell of. Only a
    map of them by path builds the layers of the saved file as they were.
    """
    layers = layers_of(model)[1:]
    quantized = {x.path: _own_policy(x) for x in layers if x.quantization_mode is not None}
    if not quantized:
        return model.dtype_policy
    policy = model.dtype_policy
    default = getattr(policy, "default_policy", policy)
    return keras.dtype_policies.DTypePolicyMap(default, quantized)


def _own_policy(layer):
    policy = layer.dtype_policy
    return policy[layer.path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy


def layers_of(layer):
    """A layer and all those that it is made of, as a list."""
    return list(layer._flatten_layers())


@contextlib.contextmanager
def dropping_weights() -> Iterator[None]:
    """While this lasts Keras drops weights of layers quickly (`del layer.weight`, `quantize`).

    It looks for garbage in the whole program at each, half a second; here, in what is new alone.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def without_memory(make):
    """What `make()` builds, of variables that have a shape and no value.

    It runs in a thread of its own: Keras keeps a list for each of the variables that still lack
    their value, and would give them one at some later time.
    """

    def run():
        with keras.StatelessScope(initialize_variables=False):
            return make()

    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
