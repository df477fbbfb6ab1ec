"""What computes, and how much memory it takes."""

import ctypes
import os
import pathlib
import sys
from typing import Any, NamedTuple

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
else:
    import tensorflow as tf

_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1  # of malloc.h


def synchronize(result: Any) -> Any:
    """Wait until `result` has been computed, so that a clock read next is right."""
    if BACKEND == "jax":
        jax.block_until_ready(result)
    elif BACKEND == "torch":
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    elif tf.config.list_physical_devices("GPU"):
        tf.experimental.sync_devices()  # on a CPU an operation returns when it is done


def peak_memory() -> Any:
    """The most bytes held so far: of the GPU's memory where one computes, else of the process."""
    if BACKEND == "jax" and jax.default_backend() != "cpu":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    if BACKEND == "torch" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if BACKEND == "tensorflow" and tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # what getrusage says would include the program that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> Any:
    """Bytes that this process may still take: of the GPU where one computes; None: unknown."""
    if BACKEND == "jax" and jax.default_backend() != "cpu":
        stats = jax.devices()[0].memory_stats()
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if BACKEND == "torch" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    if BACKEND == "tensorflow" and tf.config.list_physical_devices("GPU"):
        return None  # it takes all there is, and does not say how much that was
    return _free_host_memory()


def _free_host_memory(root="/"):
    """What Linux says is free, or what the limit of a container leaves; None elsewhere."""
    root = pathlib.Path(root)
    free = None
    if (root / "proc/meminfo").exists():
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next((line for line in lines if line.startswith("MemAvailable")), None)
        free = line and int(line.split()[1]) * 1024
    for folder, most, used in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            left = int((root / folder / most).read_text()) - int((root / folder / used).read_text())
        except (OSError, ValueError):  # there is none, or its limit is "max"
            continue
        free = left if free is None else min(free, left)
    return free


class StepMemory(NamedTuple):
    """What a training step takes, as measured on a CPU; a little more than less.

    Args:
        program: bytes of the process and its compiler, whatever it trains.
        parameter: bytes for each parameter.
        kept: floats that a block keeps for each token and unit of width, until its gradient.
        remat: the same of a block that keeps its input and computes the rest again.
    """

    program: float
    parameter: float
    kept: float
    remat: float


def step_memory() -> StepMemory:
    """What a training step takes on this backend.

    Fitted to the peaks of processes that trained 1.3 to 33 million parameters on 16 to 256 tokens
    in batches of 4 to 128. The widest gap: on TensorFlow some take a third less than this.
    """
    return {
        "jax": StepMemory(0.65e9, 20, 36, 16),
        "torch": StepMemory(0.45e9, 20, 24, 1),
        "tensorflow": StepMemory(1.35e9, 42, 52, 1),
    }[BACKEND]


def reuse_freed_memory() -> Any:
    """Let this process keep what JAX frees on a CPU, for the next step to take.

    At every step XLA asks for its buffers anew, and glibc gives and takes back large ones page by
    page: of a training step of DiT-S/2 a tenth of the time. The process then holds up to 1.4 times
    of the memory. It is for a program that does nothing but train; call it before JAX computes.
    Nothing happens on other backends, on other systems than Linux with glibc, and where the
    environment sets the allocator (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if BACKEND != "jax" or sys.platform != "linux" or chosen:
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    # One arena, since others map large blocks whatever is said; nothing mapped; nothing trimmed.
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
        libc.mallopt(option, value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory did not suffice."""
    signs = "RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "OOM when allocating"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def device_name() -> str:
    """The device that computes, in words, such as "cpu" or "NVIDIA A100-SXM4-40GB"."""
    if BACKEND == "jax":
        return jax.devices()[0].device_kind
    if BACKEND == "torch":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu")
