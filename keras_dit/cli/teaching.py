"""`train --teacher MODEL`: a student of a model that was trained before."""

import argparse
import dataclasses

from keras_dit import processes
from keras_dit.cli import models, options
from keras_dit.diffusion import Diffusion
from keras_dit.objectives import Distillation, TokenRelations
from keras_dit.predictions import HalfUnused
from keras_dit.processes import Process

__all__ = ["add_arguments", "alone", "begin", "go_on", "opened", "process"]


SHARE = 0.5  # of the loss, where nobody said it


def add_arguments(group) -> None:
    """The options, in a group of a parser's."""
    add = group.add_argument
    add("--teacher", metavar="MODEL", help="learn from its answers too, in its process")
    what = f"of the loss that is the distance from the teacher (default: {SHARE})"
    add("--teacher-share", type=options.whole_share, metavar="SHARE", help=what)
    blocks = {"type": options.blocks, "metavar": "OWN:ITS"}
    add("--teacher-tokens", **blocks, help="compare tokens too, after so many blocks: such as 2:4")


def opened(settings: argparse.Namespace) -> Diffusion | None:
    """The teacher that the settings name, or None.

    Raises:
        FileNotFoundError: if there is no such model, by the name of the option.
        ValueError: if there is a share or tokens without a teacher, or a file that is no model.
    """
    if settings.teacher is None:
        for option in ("teacher_share", "teacher_tokens"):
            if getattr(settings, option) is not None:
                raise ValueError(f"{options.spelled(option)} needs a --teacher")
        return None
    try:
        return models.load(settings.teacher).diffusion
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--teacher: {error}") from None


def process(settings: argparse.Namespace, method: str | None, teacher: Diffusion | None) -> Process:
    """The process of a new network: that which was asked for, or else the teacher's."""
    if teacher is None or method is not None:
        return processes.named(settings.method)
    own = alone(teacher.process)
    if isinstance(own.prediction, HalfUnused):  # a new network has no such channels
        return dataclasses.replace(own, prediction=own.prediction.used)
    return own


def alone(process: Process) -> Process:
    """A process without a teacher: of a student's, what it learns from the data."""
    if isinstance(process.objective, Distillation):
        return dataclasses.replace(process, objective=process.objective.data)
    return process


def begin(model: Diffusion, teacher: Diffusion | None, settings: argparse.Namespace) -> None:
    """Make a new model the student of a teacher, if there is one."""
    if teacher is not None:
        share = SHARE if settings.teacher_share is None else settings.teacher_share
        tokens = settings.teacher_tokens
        hidden = None if tokens is None else TokenRelations(*tokens)
        data = alone(model.process).objective
        model.objective = Distillation(teacher, data, share, hidden=hidden)


def go_on(model: Diffusion, settings: argparse.Namespace) -> None:
    """Give the model of a run that goes on its teacher again, which no file of the run holds."""
    teacher, objective = opened(settings), model.objective
    if teacher is not None and isinstance(objective, Distillation):
        model.objective = dataclasses.replace(objective, teacher=teacher)
