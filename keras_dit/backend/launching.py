"""How a command begins on several devices of this machine, or as one process of several.

JAX and TensorFlow drive all devices from one process. torch has a process for each, which its own
launcher starts and ends together.
"""

import contextlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence

import keras

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    import torch.distributed as dist
else:
    import tensorflow as tf

__all__ = ["check_alone", "launched", "on_devices"]


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
def on_devices(devices: int) -> Iterator[None]:
    """While this runs, models are made for so many devices; before the backend computes.

    On a machine without accelerators the devices are parts of its processor.

    Args:
        devices: how many of this machine; of a process that torchrun has started it is no matter.

    Raises:
        ValueError: if there are fewer.
    """
    with contextlib.ExitStack() as stack:
        if BACKEND == "torch" and "RANK" in os.environ:
            stack.enter_context(_process_of_torch())
        elif BACKEND == "jax" and devices > 1:
            stack.enter_context(_devices_of_jax(devices))
        elif BACKEND == "tensorflow" and devices > 1:
            stack.enter_context(_devices_of_tensorflow(devices))
        yield


def check_alone() -> None:
    """Raise ValueError in one of several processes of JAX or TensorFlow.

    The command does not bring those together: each would train for itself, into the same folder.
    """
    if BACKEND == "jax":
        name = "KERAS_DISTRIBUTION_NUM_PROCESSES"
        several = int(os.environ.get(name) or 1)
    elif BACKEND == "tensorflow":
        name = "TF_CONFIG"
        tasks = json.loads(os.environ.get(name) or "{}").get("cluster", {})
        several = sum(map(len, tasks.values()))
    else:
        return
    if several > 1:
        raise ValueError(
            f"the command trains on several hosts with torch alone, by torchrun, and {name} tells "
            f"of {several} processes: unset it for a training on this host, or start one on "
            "several hosts of JAX from Python (docs/devices.md)"
        )


@contextlib.contextmanager
def _process_of_torch():
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()  # NCCL for GPUs, gloo for processors
    try:
        yield
    finally:
        dist.destroy_process_group()


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
    return tf.distribute.MirroredStrategy(found[:devices]).scope()


def _check(devices, found):
    if len(found) < devices:
        raise ValueError(f"there are {len(found)} devices. Received: devices={devices}")
