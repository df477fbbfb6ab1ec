"""Laws of what is compiled once: the command keeps it within a limit, an import does not."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import keras_dit
from keras_dit import backend
from keras_dit.backend import BACKEND, keeping

pytestmark = pytest.mark.skipif(
    BACKEND != "jax" or sys.platform != "linux", reason="kept on JAX and Linux alone"
)
SAMPLE = ["-m", "keras_dit", "sample", "model.keras", "--steps", "1", "--num-images", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2)
    keras_dit.Diffusion(network).save(folder / "model.keras")
    return folder


def begun(model, home, arguments=SAMPLE, **environment):
    """Python in a home of its own, where no cache is chosen."""
    chosen = ("KERAS_DIT_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    environment = {**kept, "HOME": str(home), "KERAS_HOME": str(home), **environment}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=model, env=environment, **pipes)


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "warning" not in err.lower()
    return out


def programs(folder):
    return {path.name: path for path in folder.rglob("*-cache")}


@pytest.mark.skipif(BACKEND == "jax" and keeping._refused(), reason="JAX does not take it back")
def test_what_one_process_compiled_no_other_compiles_again(model, tmp_path):
    """Not though one was killed while it wrote."""
    folder = tmp_path / ".cache" / "keras_dit" / "jax" / keeping._processor()
    folder.mkdir(parents=True)
    (folder / "half-cache").write_bytes(b"of a program")
    ended(begun(model, tmp_path))
    kept = programs(tmp_path)
    assert len(kept) > 5
    assert {path.parent for path in kept.values()} == {folder}
    assert "half-cache" not in kept
    written = {name: path.stat().st_mtime_ns for name, path in kept.items()}
    ended(begun(model, tmp_path))
    assert {n: path.stat().st_mtime_ns for n, path in programs(tmp_path).items()} == written


@pytest.fixture
def settings(monkeypatch):
    """JAX as it is where nobody has chosen a cache; the suite's own comes back."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [
        f"jax_{name}"
        for name in (
            "compilation_cache_dir",
            "compilation_cache_max_size",
            "persistent_cache_min_compile_time_secs",
        )
    ]
    before = {name: getattr(jax.config, name) for name in names}
    for name in ("KERAS_DIT_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(keeping, "_refused", lambda: False)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_user_s_folder_for_caches_is_taken(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend.keep_compiled()
    chosen = pathlib.Path(settings.jax_compilation_cache_dir)
    assert chosen.parent == tmp_path / "keras_dit" / "jax"
    assert settings.jax_compilation_cache_max_size == keeping.MOST


def test_a_limit_is_kept(settings, monkeypatch, tmp_path):
    """The least recently used goes."""
    import jax

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings.update("jax_compilation_cache_max_size", 20_000)
    backend.keep_compiled()
    settings.update("jax_persistent_cache_min_compile_time_secs", 0)
    seen, x = set(), np.arange(6.0)
    for count in range(2, 10):
        jax.jit(lambda x, count=count: x**count - count)(x)
        seen |= set(programs(tmp_path))
        assert 0 < sum(path.stat().st_size for path in programs(tmp_path).values()) <= 20_000
    assert len(seen) > len(programs(tmp_path))


@pytest.mark.parametrize("said", ["", "off"])
def test_nothing_is_kept_where_nobody_wants_it(settings, monkeypatch, tmp_path, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_DIT_CACHE", said)
    backend.keep_compiled()
    assert settings.jax_compilation_cache_dir is None
    assert not any(tmp_path.iterdir())
    assert backend.cache_folder() == tmp_path / "keras_dit"


def test_a_folder_that_cannot_be_written_to_is_none(settings, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend.keep_compiled()
    assert settings.jax_compilation_cache_dir is None


def test_a_cache_of_jax_that_is_chosen_stays(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    backend.keep_compiled()
    assert settings.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_program_that_imports_the_library_keeps_nothing(model, tmp_path):
    code = "import keras_dit, jax; print(jax.config.jax_compilation_cache_dir)"
    assert ended(begun(model, tmp_path, ["-c", code])).strip() == "None"
    assert not programs(tmp_path)
