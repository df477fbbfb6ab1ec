"""The building: imports run downward only, and one file alone knows the backends apart."""

import ast
import pathlib

import pytest

import keras_dit

PACKAGE = pathlib.Path(keras_dit.__file__).parent
FLOORS = (
    {"legacy"},
    {
        "command",
        "draws",
        "files",
        "interrupts",
        "notices",
        "progress",
        "registry",
        "serialization",
    },  # what the ground floor stands on
    {"backend", "schedules", "images"},
    {"predictions", "gaussian", "layers", "datasets"},
    {"conditions", "objectives", "solvers", "guidance", "codecs"},
    {"processes", "networks"},
    {"sampling", "weights"},
    {"adapt"},
    {"training"},
    {"diffusion"},
    {"evaluation"},
    {"averages", "caching", "checkpoints", "metrics", "sampler"},  # rooms by their public names
    {"__init__"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def name(path):
    return str(path.relative_to(PACKAGE))


def room(path):
    """A package counts as one room: layers/blocks.py is in `layers`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """The dotted names that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(path):
    parts = [dotted.split(".") for dotted in imported(path)]
    used = {(*part, "__init__")[1] for part in parts if part[0] == "keras_dit"}
    return {part if part in FLOOR else "__init__" for part in used} - {room(path)}


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_run_downward(path):
    not_below = {used for used in rooms_used(path) if FLOOR[used] >= FLOOR[room(path)]}
    assert not not_below, f"{name(path)} imports {not_below}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_only_backend_imports_a_backend(path):
    packages = {dotted.split(".")[0] for dotted in imported(path)}
    backends = packages & {"jax", "jaxlib", "torch", "tensorflow"}
    assert room(path) == "backend" or not backends


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_put_onto_what_another_room_made(path):
    """An edge in disguise: a room would then depend on one that it does not import."""
    tree = ast.parse(path.read_text())
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_dit")
        for alias in node.names
    }
    targets = [t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets]
    put = [t for t in targets if isinstance(t, ast.Attribute) and ast.unparse(t.value) in ours]
    assert not put, f"{name(path)} assigns {ast.unparse(put[0])}"


@pytest.mark.parametrize("room", ["guidance", "images", "objectives", "predictions", "solvers"])
def test_completion_shows_what_is_meant(room):
    shown = dir(getattr(keras_dit, room))
    assert shown == sorted(getattr(keras_dit, room).__all__)
    assert {"keras", "np", "base", "register"}.isdisjoint(shown)
