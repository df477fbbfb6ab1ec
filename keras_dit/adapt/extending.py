"""A trained network that goes on under an objective which tells it more."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_dit.layers.parts import save_part
from keras_dit.networks import DiTModel
from keras_dit.networks.naming import of_weights
from keras_dit.networks.resizing import resize
from keras_dit.objectives import Objective
from keras_dit.processes import Process
from keras_dit.schedules import NoiseSchedule, RectifiedFlow, ReversedFlow

__all__ = ["extend"]

MOMENTS = 1025  # at which an embedding of the time is compared with another


def extend(network: DiTModel, process: Process, objective: Objective) -> tuple[DiTModel, Process]:
    """A trained network for an objective that tells it more, such as `objectives.MeanFlow`.

    The network gives what it gave: what it is told in addition has no effect at first. Where it was
    given the time times 1000 (`RectifiedFlow`), of which no derivative is of any use, it is given
    it in [0, 1] by an embedding that is fitted to the one it had: that is nearly the same.

    Args:
        network: a trained `DiTModel`, such as `Diffusion.sampling_network()`.
        process: the one that it was trained by, of straight paths.
        objective: the new one.

    Returns:
        A new network, and the process to train it by: the old one with the objective.

    Raises:
        ValueError: for a process that the objective cannot go with.

    Example:

    >>> flow = keras_dit.processes.named("flow")
    >>> trained = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=10)
    >>> network, process = extend(trained, flow, keras_dit.objectives.MeanFlow())
    >>> list(network.conditions), process.prediction
    (['label', 'span', 'guidance'], FlowVelocity())
    >>> diffusion = keras_dit.Diffusion(network, process=process)
    """
    schedule = process.schedule
    if objective.settings and schedule == RectifiedFlow():
        schedule = ReversedFlow()
    new = dataclasses.replace(process, schedule=schedule, objective=objective)
    parts = new.network_parts()
    wanted = parts.pop("conditions", {})
    if set(wanted) - set(network.conditions):
        network = resize(network, say=None, conditions={**_others(network), **wanted})
    if schedule != process.schedule:
        network = _retimed(network, process.schedule, schedule, parts["time"])
    return network, new


def _others(network):
    """What a network is told beside its classes, as layers without weights."""
    conditions = {n: c for n, c in network.conditions.items() if n != "label"}
    return {n: type(c).from_config(c.get_config()) for n, c in conditions.items()}


def _retimed(network: DiTModel, before: NoiseSchedule, after: NoiseSchedule, time: Any):
    """The network with another embedding of the time, its last map fitted to what it had."""
    config = {**network.get_config(), "time": save_part(time)}
    new = type(network).from_config(config)
    theirs = of_weights(network)
    for name, weight in of_weights(new).items():
        if not name.startswith("time/"):
            weight.assign(ops.convert_to_numpy(theirs[name]))
    moments = np.linspace(0.0, 1.0, MOMENTS, dtype="float32")
    wanted = ops.convert_to_numpy(ops.cast(network.time(before.timestep(moments)), "float32"))
    maps = [new.time.mlp_out.kernel, new.time.mlp_out.bias]
    for weight, values in zip(maps, _fitted(new.time, after.timestep(moments), wanted)):
        weight.assign(values)
    return new


def _fitted(time, numbers, wanted):
    """Kernel and bias of the last map with which an embedding is nearest to what is wanted."""
    time.mlp_in.kernel.assign(5.0 * time.mlp_in.kernel)  # so that it bends
    kernel, bias = time.mlp_out.kernel, time.mlp_out.bias
    kernel.assign(np.eye(*kernel.shape, dtype="float32"))
    bias.assign(np.zeros(bias.shape, "float32"))
    inner = ops.convert_to_numpy(ops.cast(time(numbers), "float32"))  # what that map is given
    inner = np.concatenate([inner, np.ones_like(inner[:, :1])], axis=-1).astype("float64")
    # The last digits of the fit would take weights so large that no training moves them.
    solution = np.linalg.lstsq(inner, wanted.astype("float64"), rcond=1e-2)[0]
    return solution[:-1].astype("float32"), solution[-1].astype("float32")
