"""Several settings of one command, every combination: names, a table and a plot of the results."""

import argparse
import csv
import importlib.util
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_dit import files, solvers
from keras_dit.cli import models, options
from keras_dit.registry import Registry
from keras_dit.schedules import GRIDS

__all__ = ["SWEPT", "cells", "changed", "name", "plot", "table", "write"]

# The type of each value, as of the option of that name.
SWEPT = Registry(
    "sweep",
    {
        "guidance": options.finite,
        "steps": options.count,
        "solver": options.one_of(solvers.NAMED),
        "grid": options.one_of(GRIDS),
        "num-images": options.count,
        "seed": options.natural,
        "average-std": options.positive_number,
        "dtype": options.one_of(models.DTYPES),
    },
)


def cells(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what options such as `guidance=1,2` ask for; [{}] for none.

    Raises:
        ValueError: for another name, a name twice, or a value that is none of its kind.

    Example:

    >>> cells(["guidance=1,2", "steps=10"])
    [{'guidance': 1.0, 'steps': 10}, {'guidance': 2.0, 'steps': 10}]
    """
    found: dict[str, list] = {}
    for text in texts:
        key, _, values = text.partition("=")
        kind = SWEPT.named(key)
        if key in found:
            raise ValueError(f"--sweep names {key} twice: give all its values at once")
        try:
            found[key] = [kind(value) for value in values.split(",")]
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--sweep {text}: {error}") from None
    return [dict(zip(found, values)) for values in itertools.product(*found.values())]


def name(cell: dict[str, Any]) -> str:
    """The name of a combination, for its folder: guidance=1,steps=10.

    Example:

    >>> name({"guidance": 1.5, "steps": 10})
    'guidance=1.5,steps=10'
    """
    return ",".join(f"{key}={_text(value)}" for key, value in cell.items())


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def changed(arguments: argparse.Namespace, cell: dict[str, Any]) -> argparse.Namespace:
    """The arguments with the settings of a combination."""
    new = {key.replace("-", "_"): value for key, value in cell.items()}
    return argparse.Namespace(**{**vars(arguments), **new})


def write(folder: pathlib.Path, rows: Sequence[dict]) -> None:
    """Write sweep.csv, a row for each combination that is done."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with files.beside(folder / "sweep.csv") as new, new.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[dict]) -> list[list[str]]:
    """The rows as text, with a heading."""
    names = list(dict.fromkeys(key for row in rows for key in row))

    def text(value):
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    heading = [key.replace("_", " ") for key in names]
    return [heading, *([text(row.get(key, "")) for key in names] for row in rows)]


def plot(path: pathlib.Path, rows: Sequence[dict], first: dict, score: Any) -> pathlib.Path | None:
    """Draw a score against the first setting that is a number, a line for each of the others.

    Args:
        path: of the PNG.
        rows: of the table.
        first: a combination, whose keys are the settings.
        score: the `Score` that is drawn, by its name and key.

    Returns:
        The path; None where matplotlib is not installed or there is nothing to draw against.
    """
    numbers = [key for key in first if isinstance(first[key], (int, float))]
    if not numbers or importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, across = figure.add_subplot(), numbers[0]
    lines: dict[str, list] = {}
    for row in rows:
        label = name({key: row[key] for key in first if key != across})
        lines.setdefault(label, []).append((row[across], row[score.key]))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points)), marker="o", markersize=4, label=label or None)
    axes.set(xlabel=across, ylabel=f"{score.name}\n({score.better} is better)")
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    with files.beside(path) as new:
        figure.savefig(new, dpi=110)
    return path
