"""How a run is trained: the process, the optimizer and its learning rate, by name."""

import argparse
import dataclasses
import functools

import keras

from keras_dit import processes
from keras_dit.layers import save_part
from keras_dit.networks import Network
from keras_dit.processes import Process
from keras_dit.registry import Registry
from keras_dit.training.profiles import Power

__all__ = ["OPTIMIZERS", "SCHEDULES", "average", "learning_rate", "network_parts", "optimizer",
           "process"]  # fmt: skip


def process(method: str, network: Network, begun: Process | None = None) -> Process:
    """The process of that name, its prediction fitted to the network.

    Args:
        method: a name of `processes.NAMED`.
        network: that is trained.
        begun: the process that it was trained with; of one that tunes a trained network, only the
            objective is taken.
    """
    named = processes.named(method)
    if begun is not None and named.objective.tunes:
        return dataclasses.replace(begun, objective=named.objective)
    return processes.fitted(named, network)


def average(settings: argparse.Namespace) -> float | Power:
    """The average of the weights that the options of `train` ask for."""
    stds = settings.averages
    return settings.ema if stds is None else Power(stds if isinstance(stds, list) else [stds])


def network_parts(method: str | None) -> dict:
    """What a new network needs of the process of that name, as its configuration has it."""
    parts = {} if method is None else dict(processes.named(method).network_parts())
    settings = {n: save_part(part) for n, part in parts.pop("conditions", {}).items()}
    return {"conditions": settings, **{name: save_part(part) for name, part in parts.items()}}


OPTIMIZERS = Registry(
    "optimizer",
    {
        "adamw": keras.optimizers.AdamW,
        "adam": keras.optimizers.Adam,
        "lamb": keras.optimizers.Lamb,
        "lion": keras.optimizers.Lion,
        "muon": keras.optimizers.Muon,
        "sgd": functools.partial(keras.optimizers.SGD, momentum=0.9),
    },
)

# What is left of the learning rate at the end, as a share of its peak.
SCHEDULES = Registry("schedule", {"cosine": 0.0, "constant": 1.0})


def learning_rate(
    peak: float, steps: int, warmup: int | None = None, schedule: str = "cosine"
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear rise to the peak, then a cosine to 0, or the peak to the end.

    Args:
        peak: the highest rate.
        steps: of the whole run.
        warmup: steps of the rise; None: a twentieth of the run.
        schedule: a name of `SCHEDULES`.
    """
    warmup = max(1, steps // 20) if warmup is None else min(warmup, steps)
    end = SCHEDULES.named(schedule)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(peak, steps, alpha=end)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), alpha=end, warmup_target=peak, warmup_steps=warmup
    )


def optimizer(
    rate: keras.optimizers.schedules.LearningRateSchedule,
    name: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    accumulate: int = 1,
) -> keras.optimizers.Optimizer:
    """A Keras optimizer.

    Args:
        rate: the learning rate by the number of batches.
        name: one of `OPTIMIZERS`.
        weight_decay: share of the weights that a step takes away, times the learning rate.
        clip_norm: the largest norm of all gradients together; 0: any.
        accumulate: batches whose gradients make one step.
    """
    return OPTIMIZERS.named(name)(
        learning_rate=rate,
        weight_decay=weight_decay,
        global_clipnorm=clip_norm or None,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )
