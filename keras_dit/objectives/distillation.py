"""Learning from a network that has learned already.

    L = (1 − share) L_data + share w(t) ‖ student(x_t, t) − teacher(x_t, t) ‖²  (+ hidden tokens)

The teacher's answer at x_t is the mean over all images that x_t may have come from, where the data
give one of them: the same gradient in the mean, with far less chance in it.

Reference:
    Hinton et al., Distilling the Knowledge in a Neural Network (2015), equation 4, for outputs that
    are means.
"""

import dataclasses
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit.objectives.base import EqualWeighting, MeanSquaredError, Objective, Weighting
from keras_dit.predictions import HalfUnused, LearnedVariance
from keras_dit.schedules import Rates
from keras_dit.serialization import Configurable, register

__all__ = ["Distillation", "Hidden", "Teacher", "TokenDirections", "TokenRelations"]


class Teacher(keras.layers.Layer):
    """A network that is asked and not trained: a step is given its numbers, no file keeps them.

    Args:
        denoiser: a `Denoiser`, or what gives one, as a `Diffusion` does for its average. Its
            values are copied, so that a teacher which goes on training teaches the same.

    Raises:
        ValueError: for anything else.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=10)
    >>> Teacher(keras_dit.Diffusion(network)).denoiser.prediction
    Noise()
    """

    def __init__(self, denoiser: Any, **kwargs):
        super().__init__(trainable=False, autocast=False, **kwargs)
        gives = getattr(denoiser, "denoiser", None)
        denoiser = gives() if callable(gives) else denoiser
        if not all(hasattr(denoiser, name) for name in ("output", "schedule", "prediction")):
            raise ValueError(
                "teacher must be a Diffusion or a Denoiser; a file is opened by "
                f"keras.saving.load_model. Received: teacher={denoiser!r}"
            )
        if getattr(denoiser, "values", None) is not None:
            denoiser = denoiser.settled()
            self.values = [_variable(value) for value in denoiser.values]
            denoiser = dataclasses.replace(denoiser, values=tuple(self.values))
        self._asked = types.SimpleNamespace(denoiser=denoiser)  # where Keras does not look
        self.built = True

    @property
    def denoiser(self) -> Any:
        """The `Denoiser` that answers, with values of its own."""
        return self._asked.denoiser

    def answer(self, x_t: Any, rates: Rates, condition: Any = None, **asked: Any) -> Any:
        """Its output at x_t, and what else it is asked for, without a gradient."""
        answer = self.denoiser.output(x_t, rates, condition, **asked)
        return tree.map_structure(ops.stop_gradient, answer)

    # It belongs to somebody else's file.

    def save_own_variables(self, store: Any) -> None:
        """Nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing."""


def _variable(value):
    # Through numpy: on JAX two variables that share a buffer cannot be donated.
    copy = np.array(ops.convert_to_numpy(value))
    return keras.Variable(copy, dtype=keras.backend.standardize_dtype(value.dtype), trainable=False)


class Hidden(Configurable):
    """What a student's tokens have to do with its teacher's. Subclasses are frozen dataclasses.

    Attributes:
        student, teacher: after how many of its blocks each is looked at.
        weight: of the error in the loss.
    """

    example = "objectives.TokenRelations(student=2, teacher=4)"
    student: int
    teacher: int
    weight: float

    def __post_init__(self):
        if min(self.student, self.teacher) < 1 or not 0 < self.weight < math.inf:
            raise ValueError(
                "student and teacher must be numbers of blocks, 1 or more, and weight above 0. "
                f"Received: {self}"
            )

    def error(self, student: Any, teacher: Any) -> Any:
        """float32 (B,) from tokens (B, T, D) and (B, T, E)."""
        raise NotImplementedError

    def check(self, student: Any, teacher: Any) -> None:
        """Raise ValueError if two networks have no such tokens to compare."""
        for name, network in (("student", student), ("teacher", teacher)):
            blocks = getattr(network, "blocks", ())
            if getattr(self, name) > len(blocks):
                raise ValueError(
                    f"{name} must be a number of blocks, at most the {len(blocks)} of its network. "
                    f"Received: {self}"
                )
        counts = [getattr(network.positions, "shape", (1, 0))[1] for network in (student, teacher)]
        if counts[0] != counts[1]:
            raise ValueError(
                "hidden tokens are compared one by one: student and teacher need the same patches. "
                f"Received: {counts[0]} tokens and {counts[1]}"
            )


@register
@dataclass(frozen=True)
class TokenDirections(Hidden):
    """1 − the cosine between the two networks' tokens, which have to be of one width.

    Args:
        student, teacher: after how many of its blocks each is looked at.
        weight: of the error in the loss.

    Example:

    >>> tokens = ops.ones((1, 3, 4))
    >>> abs(round(float(TokenDirections(1, 2).error(tokens, 2.0 * tokens)[0]), 6))
    0.0
    """

    student: int
    teacher: int
    weight: float = 0.5

    def error(self, student: Any, teacher: Any) -> Any:
        return 1.0 - ops.mean(ops.sum(_unit(student) * _unit(teacher), axis=-1), axis=-1)

    def check(self, student: Any, teacher: Any) -> None:
        Hidden.check(self, student, teacher)
        widths = [network.positions.shape[-1] for network in (student, teacher)]
        if widths[0] != widths[1]:
            raise ValueError(
                "tokens of two widths have no angle: give objectives.TokenRelations. "
                f"Received: hidden_size={widths[0]} and {widths[1]}"
            )


@register
@dataclass(frozen=True)
class TokenRelations(Hidden):
    """How alike each two tokens of an image are, in the two networks: any widths.

        error = mean over pairs of ( cos(s_i, s_j) − cos(t_i, t_j) )²

    Args:
        student, teacher: after how many of its blocks each is looked at.
        weight: of the error in the loss.

    Example:

    >>> narrow, wide = ops.ones((1, 3, 4)), ops.ones((1, 3, 8))
    >>> round(float(TokenRelations(1, 2).error(narrow, wide)[0]), 6)
    0.0

    Reference:
        Tung, Mori: Similarity-Preserving Knowledge Distillation (2019), of an image's tokens.
    """

    student: int
    teacher: int
    weight: float = 1.0

    def error(self, student: Any, teacher: Any) -> Any:
        return ops.mean(ops.square(_cosines(student) - _cosines(teacher)), axis=(1, 2))


def _unit(tokens):
    tokens = ops.cast(tokens, "float32")
    square = ops.sum(ops.square(tokens), axis=-1, keepdims=True)
    return tokens * ops.rsqrt(ops.maximum(square, 1e-12))


def _cosines(tokens):
    tokens = _unit(tokens)
    return ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))  # (B, T, T)


@register
@dataclass(frozen=True)
class Distillation(Objective):
    """A student's loss: partly on the data, partly on what its teacher says of them.

    The teacher is asked at the x_t of the data's loss, told what the student is told. It needs the
    schedule and the prediction of the student's process. A model is saved without its teacher: what
    was loaded samples, and trains on once it has one, `diffusion.objective = Distillation(...)`.

    Args:
        teacher: a `Diffusion`, whose average answers, or a `Denoiser`. Its weights are copied.
        data: the loss on the data, which draws the times.
        share: in [0, 1], of the teacher's part; the data's has the rest.
        weighting: how much the error of an answer counts at each time.
        hidden: what is compared within the networks, such as `TokenRelations(2, 4)`; None: nothing.
            Both have to be `DiTModel`s or to take `hidden=` as it does.

    Raises:
        ValueError: for a teacher of another process, of other images or told other things.

    Example:

    >>> flow = keras_dit.processes.named("flow")
    >>> large = keras_dit.DiTModel((8, 8, 1), 4, 32, 2, 2, num_classes=10)
    >>> teacher = keras_dit.Diffusion(large, process=flow)  # trained, as a rule
    >>> small = keras_dit.DiTModel((8, 8, 1), 4, 16, 1, 2, num_classes=10)
    >>> student = keras_dit.Diffusion(
    ...     small, process=flow, objective=Distillation(teacher, flow.objective))
    >>> student.objective.share
    0.5

    Reference:
        Hinton et al. (2015); Romero et al., FitNets (2015), for hidden layers.
    """

    teacher: Any = field(default=None, compare=False)
    data: Objective = field(default_factory=MeanSquaredError)
    share: float = 0.5
    weighting: Weighting = field(default_factory=EqualWeighting)
    hidden: Hidden | None = None

    def __post_init__(self):
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must be in [0, 1]. Received: share={self.share!r}")
        for name, kind in (("data", Objective), ("weighting", Weighting)):
            kind.checked(name, getattr(self, name))
        if self.data.settings:
            raise ValueError(
                "data must be an objective whose first look is at the whole batch, such as "
                f"MeanSquaredError(). Received: data={self.data}"
            )
        if self.hidden is not None:
            Hidden.checked("hidden", self.hidden)
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            object.__setattr__(self, "teacher", Teacher(self.teacher, name="teacher"))

    def get_config(self) -> dict:
        return {n: v for n, v in super().get_config().items() if n != "teacher"}  # it has a file

    @property
    def layers(self) -> tuple:
        return () if self.teacher is None else (self.teacher,)

    def check(self, process: Any) -> None:
        self.data.check(process)
        if self.teacher is None:
            return
        denoiser = self.teacher.denoiser
        if process.schedule != denoiser.schedule:
            raise ValueError(
                f"a student needs the schedule of its teacher, {denoiser.schedule}. "
                f"Received: schedule={process.schedule}"
            )
        if _mean(process.prediction) != _mean(denoiser.prediction):
            raise ValueError(
                f"a student needs the prediction of its teacher, {denoiser.prediction}, but for "
                f"what it says of the variance. Received: prediction={process.prediction}"
            )

    def check_network(self, network: Any) -> None:
        teacher = self.teacher and getattr(self.teacher.denoiser, "network", None)
        if not isinstance(teacher, keras.Layer):
            return
        if network.image_shape != teacher.image_shape:
            raise ValueError(
                f"a student is for the images of its teacher, {teacher.image_shape}. "
                f"Received: image_shape={network.image_shape}"
            )
        own, other = _told(network), _told(teacher)
        if own != other:
            raise ValueError(
                "a student is told what its teacher is told: conditions with the values "
                f"{other} for nothing said. Received: {own}"
            )
        if self.hidden is not None:
            self.hidden.check(network, teacher)

    def check_ready(self) -> None:
        if self.teacher is None:
            raise ValueError(
                "a student is saved without its teacher: to train or evaluate it, give it one by "
                "diffusion.objective = keras_dit.objectives.Distillation(teacher, ...). "
                "Received: teacher=None"
            )

    def sample_times(self, n: Any, seed: Any) -> Any:
        return self.data.sample_times(n, seed)

    def loss(self, evaluate: Callable, batch: Any, rates: Rates, process: Any) -> Any:
        self.check_ready()
        found: list = []

        def noted(x_t, rates, **told):
            if found:
                return evaluate(x_t, rates, **told)
            found.append(self._compared(evaluate, batch, x_t, rates, told, process))
            return found[0][0]

        data = self.data.loss(noted, batch, rates, process)
        _, error, hidden = found[0]
        return (1.0 - self.share) * data + self.share * error + hidden

    def _compared(self, evaluate, batch, x_t, rates, told, process):
        """The student's output, its error (B,), and that of its tokens."""
        if self.hidden is None:
            output, tokens = evaluate(x_t, rates, **told), None
        else:
            output, (tokens,) = evaluate(x_t, rates, **told, hidden=(self.hidden.student,))
        asked = {} if self.hidden is None else {"hidden": (self.hidden.teacher,)}
        condition = told.get("condition", batch.condition)
        answer = self.teacher.answer(x_t, rates, condition, **asked)
        hidden = 0.0
        if self.hidden is not None:
            answer, (others,) = answer
            hidden = self.hidden.weight * self.hidden.error(tokens, others)
        prediction = process.prediction
        known = self.teacher.denoiser.prediction.mean_part(answer)
        error = ops.square(prediction.mean_part(output) - known)
        error = ops.mean(error, axis=tuple(range(1, len(error.shape))))
        return output, self.weighting(rates, prediction) * error, hidden


def _mean(prediction):
    """What the channels mean that both networks have."""
    if isinstance(prediction, LearnedVariance):
        return _mean(prediction.mean)
    return _mean(prediction.used) if isinstance(prediction, HalfUnused) else prediction


def _told(network):
    """What the network is told where nothing is said, by the names of its conditions."""
    nothing = network.named(network.null(1))
    return {
        name: tree.map_structure(lambda x: str(np.asarray(x).tolist()), nothing[name])  # nan is nan
        for name in nothing
    }
