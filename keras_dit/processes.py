"""Schedule, prediction and objective that belong together.

name         schedule       the network gives    loss                             as in
ddpm         LinearBeta     the noise            mean square                      Ho et al. 2020
dit          LinearBeta     the noise, variance  mean square + variational bound  Peebles, Xie 2023
flow         RectifiedFlow  the velocity         mean square, logit-normal times  Esser et al. 2024
sit          ReversedFlow   minus the velocity   mean square                      Ma et al. 2024
lightningdit ReversedFlow   minus the velocity   mean square + direction          Yao et al. 2025
jit          ReversedFlow   the clean image      of the velocity, logit-normal    Li, He 2025
edm          EDM            F of equation 7      mean square, log-normal σ        Karras et al. 2022
consistency  RectifiedFlow  the velocity         of x0 here and a little nearer   Geng et al. 2024
meanflow     ReversedFlow   the clean image      average velocities               Geng et al. 2025

Another one is a line: `processes.NAMED.register("mine", Process(...))`. The command's choices
and `Diffusion(process=...)` follow.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from keras import ops

from keras_dit.conditions import Setting, TimestepEmbedding
from keras_dit.objectives import (
    Consistency,
    ErrorAndDirection,
    Hybrid,
    LogitNormalTimes,
    MeanFlow,
    MeanSquaredError,
    Objective,
    VelocityWeighting,
)
from keras_dit.predictions import (
    CleanSample,
    DataVelocity,
    FlooredSample,
    FlowVelocity,
    HalfUnused,
    LearnedVariance,
    Noise,
    Preconditioned,
    Prediction,
)
from keras_dit.registry import Registry
from keras_dit.schedules import (
    EDM,
    LinearBeta,
    NoiseSchedule,
    RectifiedFlow,
    ReversedFlow,
    TableSchedule,
)
from keras_dit.serialization import Configurable, register

__all__ = ["NAMED", "Process", "fitted", "for_network", "named"]


@register
@dataclass(frozen=True)
class Process(Configurable):
    """How data becomes noise, and what a network learns of it.

    Args:
        schedule: how much signal and noise there is at each time.
        prediction: what the network's output means.
        objective: which times are drawn in training and how the error there is weighted.

    Raises:
        ValueError: if the parts do not fit each other.

    Example:
        >>> from keras_dit import predictions, schedules
        >>> process = Process(schedules.RectifiedFlow(), predictions.FlowVelocity())
        >>> process.objective
        MeanSquaredError(times=UniformTimes(), weighting=EqualWeighting())
    """

    schedule: NoiseSchedule
    prediction: Prediction
    objective: Objective = field(default_factory=MeanSquaredError)

    def __post_init__(self):
        kinds = {"schedule": NoiseSchedule, "prediction": Prediction, "objective": Objective}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} must be an object of a class of keras_dit's {kind.__name__}s. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        self.objective.check(self)

    def network_parts(self) -> dict:
        """Arguments of `DiTModel` for a network that this process is to train; mostly none.

        Example:
            >>> list(named("meanflow").network_parts()["conditions"])
            ['span', 'guidance']
            >>> named("flow").network_parts()
            {}
        """
        settings = self.objective.settings
        if not settings:
            return {}
        time = TimestepEmbedding(128, frequency_range=Setting().frequency_range)
        return {"conditions": {n: Setting(null) for n, null in settings.items()}, "time": time}

    def check_network(self, network: Any) -> None:
        """Raise ValueError unless the network has the channels and the schedule the signal.

        It computes, as the making of a process does not: those of `NAMED` are made at import,
        when devices may not have been set up yet.
        """
        settings = self.objective.settings
        missing = [name for name in settings if name not in network.conditions]
        if missing:
            raise ValueError(
                f"{type(self.objective).__name__} tells the network {', '.join(settings)}: make it "
                f"with DiTModel(..., **process.network_parts()). Received: one without {missing[0]}"
            )
        expected = self.prediction.output_channels(network.image_shape[-1])
        if network.output_channels != expected:
            raise ValueError(
                f"the prediction needs a network with {expected} output channels "
                "(learned_variance=True doubles them). "
                f"Received: {self.prediction} and {network.output_channels} output channels"
            )
        if self.prediction.needs_signal and not ops.convert_to_numpy(self.schedule(1.0).alpha) > 0:
            raise ValueError(
                "the clean sample cannot be had from the noise where the schedule has no signal "
                "(alpha(1) = 0): use predictions.FlowVelocity(), V() or CleanSample(). "
                f"Received: prediction={self.prediction}, schedule={self.schedule}"
            )
        self.objective.check_network(network)


def for_network(network: Any, process: Process | None = None, **parts: Any) -> Process:
    """A process that goes with a network.

    Args:
        network: a `Network`, by its channels.
        process: None: as DiT was published, with a learned variance where the network has the
            channels for it.
        **parts: schedule, prediction and objective; those that are not None take the place of
            the process's.

    Raises:
        ValueError: if the parts do not fit each other or the network.
    """
    parts = {name: part for name, part in parts.items() if part is not None}
    if process is not None:
        if not isinstance(process, Process):
            raise ValueError(
                f'process must be a Process, such as processes.named("flow"). Received: {process!r}'
            )
        process = dataclasses.replace(process, **parts)
    else:
        default = NAMED["dit" if network.learned_variance else "ddpm"]
        parts = {"schedule": default.schedule, "prediction": default.prediction, **parts}
        table = isinstance(parts["schedule"], TableSchedule)
        if table and isinstance(parts["prediction"], LearnedVariance):
            parts.setdefault("objective", Hybrid())
        process = Process(**parts)
    process.check_network(network)
    return process


def fitted(process: Process, network: Any) -> Process:
    """The process for a network that has twice the channels of its images.

    They are a learned variance if the network says so and the noise is predicted; else they mean
    nothing, as those of published SiTs.

    Example:

    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2, output_channels=2)
    >>> fitted(named("flow"), network).prediction
    HalfUnused(used=FlowVelocity())
    """
    channels = network.image_shape[-1]
    if network.output_channels != 2 * process.prediction.output_channels(channels):
        return process
    if network.learned_variance and process.prediction.needs_signal:
        learned = LearnedVariance(process.prediction)
        return for_network(network, schedule=process.schedule, prediction=learned)
    return dataclasses.replace(process, prediction=HalfUnused(process.prediction))


NAMED = Registry(
    "process",
    {
        "ddpm": Process(LinearBeta(), Noise()),
        "dit": Process(LinearBeta(), LearnedVariance(Noise()), Hybrid()),
        "flow": Process(
            RectifiedFlow(), FlowVelocity(), MeanSquaredError(times=LogitNormalTimes())
        ),
        "sit": Process(ReversedFlow(), DataVelocity()),
        "lightningdit": Process(ReversedFlow(), DataVelocity(), ErrorAndDirection()),
        "jit": Process(
            ReversedFlow(),
            FlooredSample(),
            MeanSquaredError(LogitNormalTimes(0.8, 0.8), VelocityWeighting()),
        ),
        "edm": Process(
            EDM(), Preconditioned(), MeanSquaredError(times=LogitNormalTimes(-1.2, 1.2))
        ),
        "consistency": Process(RectifiedFlow(), FlowVelocity(), Consistency()),
        "meanflow": Process(ReversedFlow(), CleanSample(), MeanFlow()),
    },
)


def named(name: str) -> Process:
    """The process of that name.

    Raises:
        ValueError: for an unknown name, with the valid ones, the nearest first.

    Example:
        >>> named("flow").schedule
        RectifiedFlow(shift=1.0)
    """
    return NAMED.named(name)
