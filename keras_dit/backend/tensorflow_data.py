"""Data sets of TensorFlow, which every backend can be given where it is installed."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import tree


def mapped_on_host(dataset: Any, function: Callable) -> Any:
    """A tf.data.Dataset whose batches have been through a function of Python.

    Args:
        dataset: a tf.data.Dataset, not empty.
        function: of a batch of numpy arrays, which keep their structure; returns a nest of them,
            of any number of rows and else always of the same shapes and dtypes.

    Returns:
        A tf.data.Dataset.
    """
    import tensorflow as tf

    batch = next(dataset.as_numpy_iterator())
    made = tree.map_structure(np.asarray, function(batch))

    def on_host(*parts):
        arrays = tree.flatten(function(tree.pack_sequence_as(batch, list(parts))))
        return [np.asarray(array) for array in arrays]

    def mapped(*parts):
        kinds = [array.dtype for array in tree.flatten(made)]
        found = tf.numpy_function(on_host, tree.flatten(parts), kinds)
        for tensor, array in zip(found, tree.flatten(made)):
            tensor.set_shape((None, *array.shape[1:]))
        return tree.pack_sequence_as(made, list(found))

    return dataset.map(mapped)
