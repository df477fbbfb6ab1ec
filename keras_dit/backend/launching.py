"""How a command begins on several devices of this machine, or as one process of several.

JAX and TensorFlow drive all devices of a machine from one process; on several machines JAX has one
on each. torch has a process for each device, which its own launcher starts and ends together.
"""

import atexit
import contextlib
import inspect
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_dit.backend import replicas
from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    import torch.distributed as dist
else:
    import tensorflow as tf

__all__ = ["launched", "model_scope", "on_devices"]

# By which `keras.distribution.initialize` is told of the processes of JAX.
PROCESSES, PLACE, ADDRESSES = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("NUM_PROCESSES", "PROCESS_ID", "JOB_ADDRESSES")
)
SECONDS = 30  # without a sign of life, after which a process is gone for the others
GONE = "another process of the training is gone, and this one ends with it"


def launched(devices: int, module: str, arguments: Sequence[str]) -> int | None:
    """Run `python -m module arguments` as a process for each device, where the backend has those.

    Returns:
        The exit code of the first that failed, or 0; None where this process is to go on itself.
    """
    if BACKEND != "torch" or devices == 1 or "RANK" in os.environ:
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # by a signal, so that it could say nothing
            print(f"process {rank} was killed: {failure.message}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stopped:  # which has gone to all processes
        return 128 + stopped.sigval
    return 0


@contextlib.contextmanager
def on_devices(devices: int, together: bool = True) -> Iterator[None]:
    """While this runs, models are made for so many devices, in a `model_scope`; before the backend
    computes.

    On a machine without accelerators the devices are parts of its processor.

    Args:
        devices: how many of this machine; of one of several processes it is no matter.
        together: whether workers of TensorFlow join each other. The environment tells of them
            whatever a host does, also what is no matter of the others.

    Raises:
        ValueError: if there are fewer, or it is not known which of several processes this is.
    """
    with contextlib.ExitStack() as stack:
        if BACKEND == "torch" and "RANK" in os.environ:
            stack.enter_context(_process_of_torch())
        elif BACKEND == "jax" and int(os.environ.get(PROCESSES) or 1) > 1:
            stack.enter_context(_process_of_jax())
        elif BACKEND == "jax" and devices > 1:
            stack.enter_context(_devices_of_jax(devices))
        elif BACKEND == "tensorflow" and together and _workers_told():
            stack.enter_context(_process_of_tensorflow())
        elif BACKEND == "tensorflow" and devices > 1:
            stack.enter_context(_devices_of_tensorflow(devices))
        yield


_strategy: Any = None  # of TensorFlow's devices, in whose scope models are made


def model_scope() -> contextlib.AbstractContextManager:
    """A block in which models are made for the devices of `on_devices`, by all processes alike.

    What is made outside of it is a process's own. That matters on TensorFlow alone.
    """
    return contextlib.nullcontext() if _strategy is None else _strategy.scope()


@contextlib.contextmanager
def _process_of_torch():
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()  # NCCL for GPUs, gloo for processors
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _process_of_jax():
    missing = [name for name in (ADDRESSES, PLACE) if not os.environ.get(name)]
    if missing:
        raise ValueError(f"{PROCESSES} tells of several processes: set {' and '.join(missing)} too")
    # As `keras.distribution.initialize`, which would miss one that is gone for longer.
    known = inspect.signature(jax.distributed.initialize).parameters
    names = ("heartbeat_timeout_seconds", "shutdown_timeout_seconds")
    jax.distributed.initialize(
        os.environ[ADDRESSES].split(",")[0],
        int(os.environ[PROCESSES]),
        int(os.environ[PLACE]),
        **{name: SECONDS for name in names if name in known},
    )
    try:
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
            replicas.barrier()  # the first one may have images to make
    except (RuntimeError, ValueError) as error:
        if not any(sign in str(error) for sign in ("Gloo", "NCCL")):
            raise
        atexit.register(_leave)
        raise ConnectionError(f"{GONE}: {error}") from error


def _workers_told():
    """{job: how many tasks} of TensorFlow's workers, where there are several; their first leads."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    jobs = {job: len(cluster[job]) for job in ("chief", "worker") if job in cluster}
    return jobs if sum(jobs.values()) > 1 else {}


@contextlib.contextmanager
def _process_of_tensorflow():
    if "task" not in json.loads(os.environ["TF_CONFIG"]):
        raise ValueError('TF_CONFIG tells of several processes: say by its "task" which this is')
    _wait_longer(_workers_told())
    try:
        with _models_in(tf.distribute.MultiWorkerMirroredStrategy()):
            yield
            replicas.barrier()  # the first one may have images to make
    except (tf.errors.AbortedError, tf.errors.UnavailableError) as error:
        atexit.register(_leave)
        raise ConnectionError(GONE) from error


def _wait_longer(jobs):
    """Have a worker of TensorFlow miss another one after `SECONDS`.

    It does so after 10, which a busy machine may need. Private names: without them it is 10.
    """
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
        from tensorflow.python.eager.context import context

        context().configure_coordination_service(
            "standalone",
            f"/job:{next(iter(jobs))}/replica:0/task:0",
            heartbeat_timeout_in_ms=1000 * SECONDS,
            coordinated_jobs=[CoordinatedJob(name=job, num_tasks=n) for job, n in jobs.items()],
        )


@contextlib.contextmanager
def _models_in(strategy):
    global _strategy
    _strategy = strategy
    with strategy.scope():
        replicas.joined()
    try:
        yield
    finally:
        _strategy = None


def _leave():
    """End without the backend's own end, which waits for the other processes."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _devices_of_jax(devices):
    jax.config.update("jax_num_cpu_devices", devices)
    found = keras.distribution.list_devices()
    _check(devices, found)
    return keras.distribution.DataParallel(devices=found[:devices]).scope()


def _devices_of_tensorflow(devices):
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        first = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(first, parts)
    found = [device.name for device in tf.config.list_logical_devices(kind)]
    _check(devices, found)
    return _models_in(tf.distribute.MirroredStrategy(found[:devices]))


def _check(devices, found):
    if len(found) < devices:
        raise ValueError(f"there are {len(found)} devices. Received: devices={devices}")
