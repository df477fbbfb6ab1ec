"""What Keras does around a layer's call, and when it may be left out."""

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
