"""One training on several devices: what its programs have to agree on.

A replica is a program that sees a part of each batch. On JAX there is one, of the whole batch,
which XLA splits over the devices by itself. On torch a process is one, on TensorFlow a device of a
`tf.distribute` strategy. A training may also have several processes, on JAX of one replica: each
reads its part of the data. Nothing here starts devices; `keras_dit.backend.launching` does.

Reference:
    Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training (2020).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit.backend import sharing
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
    from jax.experimental import multihost_utils
elif BACKEND == "torch":
    import torch
    import torch.distributed as dist
else:
    import tensorflow as tf

__all__ = [
    "agreed",
    "alone",
    "anywhere",
    "barrier",
    "can_decide",
    "drawn",
    "joined",
    "leads",
    "mean",
    "own",
    "processes",
    "reads_together",
    "replicas",
    "share",
    "spread",
    "whole",
    "with_axis",
]


# In a step


def replicas() -> int:
    """How many programs share the batch of this step; 1 on JAX, whose program sees all of it."""
    if BACKEND == "torch":
        return processes()[1]
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync if _in_replica() else 1
    return 1


def drawn(draw: Callable[[Any], Any], count: Any) -> Any:
    """Random numbers for the samples here: drawn for the whole batch, so that a step is the same.

    Args:
        draw: number of samples n -> tensor (n, ...), or None.
        count: samples that this replica sees, as many as each of the others.

    Returns:
        Tensor (count, ...).
    """
    several = replicas()
    if several == 1:
        return draw(count)
    first, drawn = _place() * count, draw(several * count)
    return None if drawn is None else drawn[first : first + count]


def mean(values: Sequence) -> list:
    """The mean of each tensor over the replicas, which may take its place; None stays None."""
    several = replicas()
    if several == 1:
        return list(values)
    given = [value for value in values if value is not None]
    means = iter(_mean_torch(given, several) if BACKEND == "torch" else _mean_tf(given))
    return [None if value is None else next(means) for value in values]


LARGE = 2**16  # numbers, whose copy would cost as much as an exchange of its own


def _mean_torch(values, several):
    """Large ones where they are; of the others an exchange for each dtype, as each costs alike."""
    found = [None] * len(values)
    for i, value in enumerate(values):
        if value.numel() >= LARGE and value.is_contiguous():
            dist.all_reduce(value)
            found[i] = value.div_(several)
    rest = [i for i, value in enumerate(found) if value is None]
    for dtype in {values[i].dtype for i in rest}:
        places = [i for i in rest if values[i].dtype == dtype]
        flat = torch.cat([values[i].reshape(-1) for i in places])
        dist.all_reduce(flat)
        parts = flat.div_(several).split([values[i].numel() for i in places])
        for i, part in zip(places, parts):
            found[i] = part.reshape(values[i].shape)
    return found


def _mean_tf(values):
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)


def whole(count: Any) -> Any:
    """Samples of the whole batch, as a metric counts them.

    TensorFlow adds up what the replicas have counted by itself.
    """
    return count * replicas() if BACKEND == "torch" else count


def with_axis(logs: dict) -> dict:
    """The logs of a step as Keras's trainer takes them.

    Of several workers of TensorFlow it takes the mean over their first axis, which a number has
    not.
    """
    if BACKEND == "tensorflow" and _of_workers(tf.distribute.get_strategy()):
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
    return logs


def _in_replica():
    return not tf.distribute.in_cross_replica_context() and tf.distribute.has_strategy()


def _place():
    if BACKEND == "torch":
        return processes()[0]
    return tf.distribute.get_replica_context().replica_id_in_sync_group


# Beside the steps


def processes() -> tuple[int, int]:
    """(this one, how many) of the processes that read data together; (0, 1) where there is one.

    The workers of a strategy of TensorFlow count as one: each reads all, and gets its part.
    """
    if BACKEND == "jax":
        return jax.process_index(), jax.process_count()
    if BACKEND == "torch" and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(model: keras.Model) -> int:
    """Into how many equal parts each batch of the model is split."""
    if BACKEND == "tensorflow":
        return model.distribute_strategy.num_replicas_in_sync
    distribution = keras.distribution.distribution() if BACKEND == "jax" else None
    if distribution is None:
        return processes()[1]
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def can_decide(model: keras.Model) -> bool:
    """Whether an optimizer of Keras may decide within a step whether it moves.

    Not on the replicas of a strategy of TensorFlow: there they cannot meet
    (github.com/keras-team/keras/issues/18666 and 20582).
    """
    return BACKEND != "tensorflow" or share(model) == 1


def leads() -> bool:
    """Whether this process writes files and says things: one of all does."""
    workers = joined()
    first = processes()[0] == 0 if workers is None else workers.extended.should_checkpoint
    return first and not sharing.helps()


_workers: Any = None


def joined() -> Any:
    """The strategy of several workers of TensorFlow in which this process makes models, or None."""
    global _workers
    if BACKEND == "tensorflow" and _of_workers(tf.distribute.get_strategy()):
        _workers = tf.distribute.get_strategy()
    return _workers


def reads_together() -> bool:
    """Whether all processes have to read variables together, as the workers of TensorFlow.

    A metric there is the sum of what each worker has counted.
    """
    return joined() is not None


def _of_workers(strategy):
    """Whether a strategy has several workers, a process each."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    tasks = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(tasks.get(job, ())) for job in ("chief", "worker")) > 1


def _numbers_of(workers, number):
    """What each of them has given, in their order, once for each of its devices."""
    given = workers.experimental_local_results(_exchange(workers)(tf.constant(number, "int64")))
    return [int(one) for one in given[0]]


@functools.cache
def _exchange(workers):
    def exchanged(number):
        context = tf.distribute.get_replica_context()
        place, count = context.replica_id_in_sync_group, context.num_replicas_in_sync
        own = number * tf.one_hot(place, count, dtype="int64")
        return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

    return tf.function(lambda number: workers.run(exchanged, (number,)))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While this runs, this process makes what is its own, such as a file: the others need not.

    A variable of a `keras.distribution` over processes is made by all of them together: JAX waits
    there until each has given its value. Keras makes variables even while it saves a model.
    """
    if BACKEND != "jax" or processes()[1] == 1:
        yield
        return
    together = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(together)


def own(values: Sequence) -> list:
    """Of values that each process holds whole its own, with which it can compute alone."""
    if BACKEND != "jax" or processes()[1] == 1:
        return list(values)
    return [v.addressable_data(0) if v.is_fully_replicated else v for v in values]


def agreed(number: int) -> int:
    """The number of the process that `leads`, which may be random: of at most 32 bits."""
    workers = joined()
    if workers is not None:
        return _numbers_of(workers, number)[0]
    if processes()[1] == 1:
        return number
    if BACKEND == "jax":
        return int(multihost_utils.broadcast_one_to_all(np.uint32(number)))
    box = [number]
    dist.broadcast_object_list(box)
    return box[0]


def anywhere(number: int) -> int:
    """The largest of the numbers that the processes give, such as that of a signal or 0."""
    workers = joined()
    if workers is not None:
        return max(_numbers_of(workers, number))
    if processes()[1] == 1:
        return number
    if BACKEND == "jax":
        return int(np.max(multihost_utils.process_allgather(np.int32(number))))
    largest = torch.tensor(number, device=_exchange_device())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def barrier() -> None:
    """Wait until every process is here."""
    anywhere(0)


def spread(variables: Sequence[keras.Variable]) -> None:
    """Give each process the values of the one that `leads`.

    JAX has its own rule: variables are made from one seed, which `keras.distribution` settles.
    """
    if BACKEND != "torch" or processes()[1] == 1:
        return
    for variable in variables:
        value = ops.convert_to_tensor(variable.value).detach().to(_exchange_device(), copy=True)
        dist.broadcast(value, 0)
        variable.assign(value)


def _exchange_device():
    """NCCL exchanges what lies on a GPU only."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
