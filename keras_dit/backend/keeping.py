"""What was compiled, kept for the next process, and the folder of all that is used again.

JAX alone keeps it within a size. A TensorFlow folder would grow for ever, so there it is kept only
where KERAS_DIT_CACHE asks for it; torch.compile keeps what it makes by itself.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import sys
import warnings

from keras_dit.backend.selection import BACKEND

if BACKEND == "jax":
    import jax

__all__ = ["cache_folder", "keep_compiled"]

MOST = 2**30  # bytes of compiled programs of a processor; beyond, the least recently used goes
SECONDS = 0.1  # what took less to compile is compiled again: a file costs about as much
COMPLAINTS = r"(Error (read|writ)ing persistent compilation cache|Cache value for key)"


def cache_folder() -> pathlib.Path:
    """The folder of what is used again; it may not exist yet.

    It is KERAS_DIT_CACHE where that is set, else `keras_dit` in the user's folder for caches.

    Raises:
        RuntimeError: if there is neither, nor a home.
    """
    if _asked():
        return pathlib.Path(os.environ["KERAS_DIT_CACHE"]).absolute()
    usual = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(usual) / "keras_dit"


def keep_compiled() -> None:
    """Let what this process compiles serve the next ones, for the command, without being asked.

    Nothing is done where another cache of JAX is chosen, KERAS_DIT_CACHE is "off" or empty, the
    folder cannot be written to, or it is not known to be safe: on systems other than Linux (what
    was kept has crashed JAX on macOS), on processors whose programs JAX does not take back, and
    in processes that train together.
    """
    if BACKEND != "jax" or jax.process_count() > 1:
        return
    chosen = "KERAS_DIT_CACHE" in os.environ or jax.config.jax_compilation_cache_dir is not None
    if chosen or sys.platform != "linux" or _refused():
        return
    with contextlib.suppress(RuntimeError):  # no home
        _keep_on_jax(cache_folder(), unbounded=False)
        # What cannot be kept costs the next process some time, and nothing else.
        warnings.filterwarnings("ignore", message=COMPLAINTS)


def _asked():
    return os.environ.get("KERAS_DIT_CACHE", "off") not in ("", "off")


def _keep_on_jax(folder, unbounded):
    """Let JAX keep what it compiles in the folder, within `MOST` bytes where that is possible.

    Args:
        folder: of all that is kept.
        unbounded: whether it is kept too where its size cannot be held.
    """
    # Programs are made for the processor, and a home may be that of several machines.
    folder = folder / "jax" / _processor()
    bounded = _mended(folder)
    if not (bounded or unbounded):
        return
    if bounded and jax.config.jax_compilation_cache_max_size == -1:
        jax.config.update("jax_compilation_cache_max_size", MOST)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _mended(folder):
    """Whether JAX can keep the size of a folder, from which is then taken what would hinder it.

    A process that is killed while it writes leaves a program without the time of its last use. It
    may be a part of it, and JAX writes nothing more beside one.
    """
    try:
        import filelock  # by which JAX keeps processes apart

        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lockfile", timeout=1):
            programs = {path.name.removesuffix("-cache") for path in folder.glob("*-cache")}
            times = {path.name.removesuffix("-atime") for path in folder.glob("*-atime")}
            for name in programs ^ times:
                (folder / f"{name}{'-cache' if name in programs else '-atime'}").unlink()
        return True
    except (ImportError, OSError, NotImplementedError):  # the last: where nothing can be locked
        return False


def _facts_of_processor():
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor():
    """What tells processors apart, by what they can do: 12 characters."""
    known = re.search(r"^(flags|Features)\s*:(.*)$", _facts_of_processor(), re.MULTILINE)
    told = [platform.machine(), platform.processor() if known is None else known[2]]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _refused():
    """Whether JAX does not take back what was compiled for this processor.

    On those whose "gather" is slow since it was mended (the bug "gds"), XLA notes down a preference
    that it then misses as if it were an instruction, with a page of errors for each program.

    Reference:
        https://github.com/jax-ml/jax/issues/38445
    """
    bugs = re.search(r"^bugs\s*:(.*)$", _facts_of_processor(), re.MULTILINE)
    return jax.default_backend() == "cpu" and bugs is not None and "gds" in bugs[1].split()


def _keep_on_tensorflow(folder):  # which reads this when it first compiles
    directory = f"--tf_xla_persistent_cache_directory={folder / 'tensorflow'}"
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {directory}"


if _asked():
    if BACKEND == "jax":
        _keep_on_jax(cache_folder(), unbounded=True)
    elif BACKEND == "tensorflow":
        _keep_on_tensorflow(cache_folder())
