"""Images that a command makes to be looked at: one way for train, sample and demo."""

import pathlib
from collections.abc import Sequence

import numpy as np

from keras_dit import guidance, images, solvers
from keras_dit.cli import texts

__all__ = ["FEW", "GUIDANCE", "STEPS", "columns", "guided", "labels_in_turn", "sampled",
           "save_grid", "scale", "steps"]  # fmt: skip

ROWS = 8  # of a grid
# What `sample` does unless it is told otherwise, and what training's previews and the demo do.
STEPS, SOLVER, GUIDANCE = 50, "ddim", 2.0
FEW = 2  # steps of a network that knows how far they go
TOLD = 3.0  # guidance of a network that is told texts: what was never said together needs more


def columns(num_classes: int | None) -> int:
    """Columns of a grid: one for each class, of many classes and of none a few."""
    return min(num_classes or 8, 10)


def labels_in_turn(num_classes: int | None, count: int) -> list[int] | None:
    """Labels of a grid: each class in turn, or None for a network without classes."""
    return None if num_classes is None else [i % num_classes for i in range(count)]


def steps(network) -> int:
    """How many steps a run has if nobody says it."""
    return FEW if "span" in network.conditions else STEPS


def scale(network) -> float:
    """How much guidance a run has if nobody says it."""
    # One that is told its guidance has learned scales up to 2.
    more = texts.TEXT in network.told and "guidance" not in network.conditions
    return TOLD if more else GUIDANCE


def guided(scale, network, **settings) -> guidance.Guidance:
    """Guidance as the network has learned it, by being told its scale or by dropped conditions.

    Of a network that is told nothing there is nothing to guide by.
    """
    if not network.told:
        return guidance.Unguided()
    if "guidance" in network.conditions:
        if any(settings.values()):
            raise ValueError(
                "the network is told its guidance: leave out --guidance-rescale and "
                "--guidance-channels, which change a sum of two estimates"
            )
        if isinstance(scale, guidance.Interval):
            return guidance.Conditioned(scale.scale, scale.low, scale.high)
        return guidance.Conditioned(scale)
    return guidance.ClassifierFree(scale, **settings)


def sampled(
    model, verbose: bool = False, prompts: Sequence[str] = ()
) -> tuple[np.ndarray, list[int] | None]:
    """The images that `keras-dit sample` makes if it is told nothing, and their labels.

    Args:
        model: a `Diffusion`.
        verbose: whether to show a progress bar.
        prompts: for a network that is told texts, one for each column.
    """
    classes = model.network.num_classes
    count = ROWS * columns(classes)
    labels = labels_in_turn(classes, count)
    made = model.generate(
        labels=labels,
        num_images=count,
        conditions={texts.TEXT: texts.in_turn(prompts, count)} if prompts else None,
        steps=steps(model.network),
        solver=solvers.named(SOLVER),
        guidance=guided(scale(model.network), model.network),
        verbose=verbose,
    )
    return made, labels


def to_unit(made: np.ndarray, codec) -> np.ndarray:
    """Images of a codec's range -> [-1, 1]."""
    return (made - codec.low) / (codec.high - codec.low) * 2.0 - 1.0


def visible(made: np.ndarray, model) -> bool:
    """Whether these are images, not latents."""
    return made.shape[-1] in (1, 3) and bool(np.isfinite(model.codec.high))


def first_channels(made: np.ndarray) -> np.ndarray:
    """A look at what is no image: its first three channels, or the first, in [-1, 1]."""
    shown = made[..., :3] if made.shape[-1] >= 3 else made[..., :1]
    return shown / max(np.abs(shown).max(), 1e-6)


def save_grid(
    path: pathlib.Path,
    made: np.ndarray,
    model,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write images as one PNG, with names above the columns where each column is one class."""
    across = min(columns(model.network.num_classes), len(made))
    unit = to_unit(made, model.codec) if visible(made, model) else first_channels(made)
    names = _names(labels, across, class_names)
    images.save_png(path, images.grid(unit, columns=across, names=names))


def _names(labels, across, class_names):
    """The name of each column, if all in it are of one class; else None."""
    if not class_names or labels is None:
        return None
    if any(label != labels[i % across] for i, label in enumerate(labels)):
        return None
    return [class_names[label] for label in labels[:across]]
