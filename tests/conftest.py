"""What the whole suite needs: compiled programs that are found again, and runs in parts."""

import os
import pathlib

import pytest

# Many tests build the same network anew: JAX finds its compiled program again instead. It has to be
# said before JAX is imported. pytest keeps this folder out of version control.
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_addoption(parser):
    words = "run the Kth of N parts of the files: a process keeps what TensorFlow has compiled"
    parser.addoption("--part", metavar="K/N", help=words)


def pytest_collection_modifyitems(config, items):
    part = config.getoption("--part")
    if part is None:
        return
    k, n = map(int, part.split("/"))
    chosen = set(sorted({item.path for item in items})[k - 1 :: n])
    config.hook.pytest_deselected(items=[item for item in items if item.path not in chosen])
    items[:] = [item for item in items if item.path in chosen]


def pytest_sessionfinish(session, exitstatus):
    # Of a few files some parts have none.
    if session.config.getoption("--part") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
