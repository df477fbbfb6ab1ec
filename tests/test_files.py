"""Laws of keras_dit.files and keras_dit.registry."""

import os
import stat

import numpy as np
import pytest

from keras_dit import Diffusion, DiTModel, files, images, weights
from keras_dit.cli import common
from keras_dit.registry import Registry, nearest_first
from keras_dit.training.checkpoints import files as checkpoints


def network():
    return DiTModel((4, 4, 4), 2, 8, 1, 2, num_classes=2)


def safetensors(path):
    pytest.importorskip("safetensors")
    weights.export(network(), path)


WRITERS = {
    "a.png": lambda path: images.save_png(path, np.zeros((4, 4, 3))),
    "a.gif": lambda path: images.save_gif(path, np.zeros((2, 4, 4, 3))),
    "a.keras": lambda path: common.save_model(Diffusion(network(), ema=None), path),
    "a.pt": lambda path: weights.export(network(), path),
    "a.safetensors": safetensors,
    "checkpoint.safetensors": lambda path: checkpoints.write(path, {"a": np.zeros(3)}, {}),
}
writers = pytest.mark.parametrize("name", WRITERS)


@writers
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_file_has_the_mode_that_the_umask_gives(name, umask, tmp_path):
    before = os.umask(umask)
    try:
        WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


@writers
def test_a_writer_creates_the_folder_and_leaves_the_file_alone_in_it(name, tmp_path):
    for _ in range(2):
        WRITERS[name](tmp_path / "new" / "folder" / name)
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == [name]


@writers
def test_a_link_stays_a_link(name, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "place" / name)
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "place" / name).stat().st_size > 0


@writers
def test_a_folder_in_the_way_is_named(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=f"{tmp_path / name}: it is a folder"):
        WRITERS[name](tmp_path / name)


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (OSError(28, "No space left on device"), ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), files.beside(path) as new:
            new.write_text("ne")
            raise error
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with files.beside(path) as one:
        one.write_text("one")
        with files.beside(path) as two:
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"


def test_what_a_killed_writer_left_can_be_found(tmp_path):
    (tmp_path / "a.txt").touch()
    with files.beside(tmp_path / "b.txt") as new:
        new.touch()
        assert files.leftovers(tmp_path) == [new]
    assert files.leftovers(tmp_path) == []


# Names


def test_a_wrong_name_gets_all_names_the_nearest_first():
    registry = Registry("solver", {"euler": 1, "heun": 2, "ddim": 3, "unipc": 4, "dpm": 5})
    assert nearest_first("heum", registry)[0] == "heun"
    assert sorted(nearest_first("heum", registry)) == sorted(registry)
    with pytest.raises(ValueError, match=r"solver must be one of heun, .*Received: solver='heum'"):
        registry.named("heum")
    for odd in (None, 3, ["heun"]):
        with pytest.raises(ValueError, match="solver must be one of"):
            registry.named(odd)


def test_what_is_registered_is_there_and_a_name_is_not_taken_twice():
    registry = Registry("solver", {"euler": 1})
    assert registry.register("heun", 2) == 2
    assert list(registry) == ["euler", "heun"]
    assert registry.named("heun") == registry["heun"] == 2
    registry.register("heun", 2)
    with pytest.raises(ValueError, match="solver 'heun' is taken by 2"):
        registry.register("heun", 3)
