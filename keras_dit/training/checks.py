"""What is given to `Diffusion`, checked on the host before any work is done with it."""

import warnings

import keras
import numpy as np
from keras import tree


def instance(name, value, default, kind):
    """The value, or the default for None; ValueError for anything that is not of that kind."""
    return kind.checked(name, default() if value is None else value)


def jit_compile(value):
    """Raise ValueError unless it is True, False or "auto"."""
    if value not in (True, False, "auto"):
        raise ValueError(f'jit_compile must be True, False or "auto". Received: {value!r}')


def requested(network, labels=None, conditions=None, num_images=None):
    """What `generate` was asked for.

    Returns:
        The values of the conditions on the host, as `DiTModel.check` gives them, and how many
        images.
    """
    if not (conditions is None or isinstance(conditions, dict)):
        raise ValueError(f"conditions must be a dict of values by name. Received: {conditions!r}")
    given = dict(conditions or {})
    if labels is not None:
        if "label" in given:
            raise ValueError('labels is short for conditions={"label": ...}: give one of them')
        if network.num_classes is None:
            raise ValueError("the network has no classes (num_classes=None): give no labels")
        given["label"] = list(np.atleast_1d(np.asarray(labels, dtype=object)))
    if not given:
        if not isinstance(num_images, (int, np.integer)) or num_images < 1:
            raise ValueError(
                f"give labels, or num_images of 1 or more. Received: num_images={num_images!r}"
            )
        return network.null(int(num_images)), int(num_images)
    checked = network.check(given)
    count = len(tree.flatten(checked)[0])
    if count == 0 or (num_images is not None and num_images != count):
        raise ValueError(f"num_images={num_images}, but there are {count} labels")
    return checked, count


def data(x, y, network, codec):
    """x, after its first batch (of arrays, everything) has been found to fit the network."""
    if hasattr(x, "shape"):
        _batch(x, y, network, codec)
        return x
    if x is None:
        raise ValueError("give pictures as x. Received: x=None")
    if isinstance(x, keras.utils.PyDataset):
        first = None if x.num_batches == 0 else x[0]
    else:
        iterator = iter(x)
        first = next(iterator, None)
        if iterator is x:  # a generator: what was taken has to be put back
            x = _chained(first, iterator)
    if first is None:
        raise ValueError("the data set is empty")
    first = first if isinstance(first, (tuple, list)) else (first,)
    images, labels = (*first, None)[:2]
    _batch(images, labels, network, codec)
    return x


def _chained(first, rest):
    """A generator whose first batch has been looked at: that batch, then the rest."""
    yield first
    yield from rest


def _batch(images, labels, network, codec):
    expected, shape = network.image_shape, tuple(images.shape)
    if len(shape) != 4 or shape[1:] != expected:
        raise ValueError(
            "pictures must be (batch, height, width, channels), channels last, here "
            f"(batch, {', '.join(map(str, expected))}). Received: shape {shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"there are no pictures. Received: shape {shape}")
    _warn_of_range(np.asarray(images[:256]), codec)
    if network.conditions and labels is None:
        raise ValueError(f"{_words(network)}: give labels as y")
    missing = set(network.conditions) - set(network.named(labels))
    if missing:
        raise ValueError(f"{_words(network)}: y lacks {', '.join(sorted(missing))}")
    network.check(labels, shape[0])


def _words(network):
    """What the network wants to be told, for a message."""
    if network.num_classes is not None and len(network.conditions) == 1:
        return f"the network has {network.num_classes} classes"
    return f"the network has the conditions {', '.join(network.conditions)}"


def _warn_of_range(images, codec):
    low, high = codec.low, codec.high
    slack = 0.5 * (high - low)  # noise-augmented pictures may overshoot a little
    if images.min() < low - slack or images.max() > high + slack:
        warnings.warn(
            f"pictures are expected in [{low:g}, {high:g}] but reach from "
            f"{images.min():g} to {images.max():g}: scale them, or for 0 ... 255 use "
            "Diffusion(codec=keras_dit.codecs.Pixels(0, 255))",
            stacklevel=5,
        )
