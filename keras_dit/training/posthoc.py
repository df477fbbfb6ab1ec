"""An average of any length, after training: a sum of the snapshots of two.

    f(τ) ≈ Σ_i x_i f_i(τ),   A x = b,   A_ij = ⟨f_i, f_j⟩,   b_i = ⟨f_i, f⟩                   (1)
    ⟨f_i, f_j⟩ = (γ_i+1)(γ_j+1) / ((γ_i+γ_j+1) t_j) · (t_i/t_j)^γ_j    where t_i ≤ t_j        (151)

f_i is the profile that a stored average has: the power profile of its width until its time t_i.
The wanted one is f, and the x of (1) make Σ x_i f_i nearest to it. Then the same sum of the stored
averages is the wanted one, whatever the weights did.

Reference:
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models (2024),
    section 3.2, equation 151 and algorithm 3.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dit.training import snapshots
from keras_dit.training.checkpoints import names
from keras_dit.training.profiles import WIDEST, exponent

__all__ = [
    "LIMIT",
    "Reconstruction",
    "coefficients",
    "load",
    "profile_error",
    "reach",
    "reconstruct",
]

LIMIT = 0.1  # of `profile_error`, above which no average is made


class Reconstruction(NamedTuple):
    """An average that was put together.

    Attributes:
        values: float32 arrays by the names of the weights in files.
        std: its width, as a share of the training's length.
        at: the number of updates at whose end it is.
        error: how far its profile is from the wanted one, a share of that one's norm.
        stored: how many stored averages it is a sum of.
    """

    values: dict
    std: float
    at: int
    error: float
    stored: int


def coefficients(stds: Sequence, times: Sequence, std: float, at: float) -> np.ndarray:
    """By how much each stored average counts in the wanted one; they sum to 1.

    Args:
        stds, times: width and time of each stored average, (n,).
        std, at: of the wanted one.

    Returns:
        float64 (n,).

    Example:

    >>> coefficients([0.05, 0.10, 0.05, 0.10], [1, 1, 2, 2], 0.10, 2).round(6) + 0.0
    array([0., 0., 0., 1.])
    """
    stored = _exponents(stds), np.asarray(times, "float64")
    wanted = exponent(std), np.float64(at)
    x = np.linalg.solve(_products(*stored), _product(*stored, *wanted))  # (1)
    return x / x.sum()


def profile_error(stds: Sequence, times: Sequence, std: float, at: float) -> float:
    """The norm of Σ x_i f_i − f, as a share of the norm of f.

    Args:
        stds, times, std, at: as for `coefficients`.

    Example:

    >>> profile_error([0.05, 0.10], [8, 8], 0.10, 8) < 1e-6
    True
    """
    stored, g = (_exponents(stds), np.asarray(times, "float64")), exponent(std)
    x = coefficients(stds, times, std, at)
    norm = _product(g, np.float64(at), g, np.float64(at))
    square = norm - 2 * x @ _product(*stored, g, np.float64(at)) + x @ _products(*stored) @ x
    return float(np.sqrt(max(square / norm, 0.0)))


def reach(stds: Sequence, times: Sequence, at: float) -> tuple[float, float]:
    """The narrowest and the widest average that the stored ones give with less than `LIMIT`.

    Args:
        stds, times, at: as for `coefficients`.
    """
    tried = np.geomspace(0.002, WIDEST, 200)
    found = [float(std) for std in tried if profile_error(stds, times, std, at) <= LIMIT]
    return min([*found, *stds]), max([*found, *stds])


def reconstruct(folder: str | os.PathLike, std: float, at: int | None = None) -> Reconstruction:
    """Put an average together.

    Args:
        folder: that a `Snapshots` has written.
        std: the width that is wanted, as a share of the training's length.
        at: updates of the snapshot at whose time the average ends; None: the last one.

    Raises:
        FileNotFoundError: if there are no snapshots, or none of that time.
        ValueError: for a width that they do not reach.
        CorruptCheckpointError: for a damaged snapshot.
    """
    found = snapshots.opened(folder, at)
    stds = [one for snapshot in found for one in snapshot.stds]
    times = [snapshot.at for snapshot in found for _ in snapshot.stds]
    last = times[-1]
    error = profile_error(stds, times, std, last)
    if error > LIMIT:
        low, high = reach(stds, times, last)
        raise ValueError(
            f"std must be from {low:.2g} to {high:.2g}, which the {len(found)} snapshots up to "
            f"update {last} of widths {', '.join(f'{one:g}' for one in found[-1].stds)} give. "
            f"Received: std={std!r}"
        )
    x = coefficients(stds, times, std, last)
    values = {name: _sum(x, found, name) for name in found[-1].names}
    return Reconstruction(values, float(std), last, error, len(stds))


def load(
    model: keras.Model, folder: str | os.PathLike, std: float, at: int | None = None
) -> Reconstruction:
    """Put an average together, and into a model, which then samples and is evaluated with it.

    Its weights stay as they are, unless it has no average of them.

    Args:
        model: a `Diffusion` with the network of the run.
        folder, std, at: as for `reconstruct`.

    Returns:
        What `reconstruct` does.

    Raises:
        FileNotFoundError, ValueError, CorruptCheckpointError: as `reconstruct` does.
        ValueError: if the snapshots are of another network.

    Example:

    >>> import keras_dit
    >>> images, labels = keras_dit.datasets.load_digits()
    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 8, depth=1, num_heads=2, num_classes=10)
    >>> diffusion = keras_dit.Diffusion(network, ema=keras_dit.averages.Power())
    >>> diffusion.compile()
    >>> snapshots = keras_dit.averages.Snapshots("averages")
    >>> history = diffusion.fit(images[:64], labels[:64], 8, verbose=0, callbacks=[snapshots])
    >>> load(diffusion, "averages", std=0.07).at
    8
    """
    made, average = reconstruct(folder, std, at), model.average
    targets = names.of_weights(model.network) if average is None else average.by_name()
    for name, value in made.values.items():
        if name not in targets or tuple(targets[name].shape) != value.shape:
            raise ValueError(f"the snapshots in {folder} are of another network: {name}")
    for name, value in made.values.items():
        targets[name].assign(value)
    if average is not None:
        if not average.begun:
            average.updates.assign(made.at)
        average.trust()
    return made


def _exponents(stds):
    return np.array([exponent(std) for std in stds])


def _products(g, t):
    return _product(g[:, None], t[:, None], g[None], t[None])


def _product(g, t, other, time):
    """⟨f, f'⟩ (151) of power profiles with the exponents g and other until t and time."""
    share = np.minimum(t, time) / np.maximum(t, time)
    power = np.where(t < time, other, g)
    return (g + 1) * (other + 1) * share**power / ((g + other + 1) * np.maximum(t, time))


def _sum(x, found, name):
    arrays = (snapshot.average(std, name) for snapshot in found for std in snapshot.stds)
    total: Any = 0.0
    for factor, array in zip(x, arrays, strict=True):
        total = total + factor * array.astype("float64")
    return np.asarray(total, "float32")
