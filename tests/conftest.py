"""What the whole suite needs: programs that are compiled quickly and found again, and parts."""

import os
import pathlib

import pytest

# Many tests build the same network anew: JAX finds its compiled program again instead. It has to be
# said before JAX is imported. pytest keeps this folder out of version control.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Nearly all that a small network takes under XLA is to be compiled, which is 3 (TensorFlow) to 9
# times as fast without optimization. `XLA_FLAGS= pytest` tests the programs that users get.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))


def pytest_addoption(parser):
    words = "run the Kth of N parts of the files: a process keeps what TensorFlow has compiled"
    parser.addoption("--part", metavar="K/N", help=words)
    words = "compute on a device of torch that is none: what would not do on a GPU fails"
    parser.addoption("--fake-device", action="store_true", help=words)


def pytest_configure(config):
    if config.getoption("--fake-device"):  # before Keras is imported
        os.environ["KERAS_TORCH_DEVICE"] = "fake"
        import fake_device  # noqa: F401  # for which there is the device


def pytest_collection_modifyitems(config, items):
    if config.getoption("--fake-device"):
        import fake_device

        _choose(config, items, lambda item: fake_device.takes(item))
    part = config.getoption("--part")
    if part is not None:
        k, n = map(int, part.split("/"))
        paths = set(sorted({item.path for item in items})[k - 1 :: n])
        _choose(config, items, lambda item: item.path in paths)


def _choose(config, items, wanted):
    chosen = list(filter(wanted, items))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_sessionfinish(session, exitstatus):
    # Of a few files some parts have none.
    chooses = any(map(session.config.getoption, ("--part", "--fake-device")))
    if chooses and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
