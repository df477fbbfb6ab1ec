"""Scores while a network trains."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from keras_dit.evaluation import measures, references
from keras_dit.evaluation.features import Features, Pixels
from keras_dit.evaluation.production import Plan, produced
from keras_dit.evaluation.references import Reference
from keras_dit.evaluation.report import image_shape

__all__ = ["Scoring"]


class Scoring(keras.callbacks.Callback):
    """Scores images of the averaged weights every few epochs, always from the same seeds.

    The scores join the logs of the epoch, so that they are in the history, and in what callbacks
    after this one write: log.csv, TensorBoard, and the checkpoints, of which
    `Checkpoint(monitor=scoring.monitor)` marks the one of the lowest Fréchet distance as the best.
    Training is not changed by it: the random numbers of `fit` are others.

    Args:
        reference: as for `evaluation.reference`, or what that gives.
        features: what images are compared by; None: `Pixels()`.
        every: epochs between two scores; the last epoch is always scored.
        plan: how many images are made, and how; None: 1000 in 20 steps, without guidance.
        saying: a function of words that gives a context, entered while images are made, such as
            the `saying` of a progress bar; None: nothing is said.

    Attributes:
        monitor: the name of the Fréchet distance in the logs.
        scores: of the last time, a list of `Score`s.

    Raises:
        ValueError: for an argument out of its range; when training begins, for a model that makes
            no images or a reference that does not fit it.

    Example:

    ```python
    scoring = keras_dit.evaluation.Scoring("digits", every=10)
    checkpoint = keras_dit.checkpoints.Checkpoint("runs/a", monitor=scoring.monitor)
    diffusion.fit(images, labels, epochs=100, callbacks=[scoring, checkpoint])
    ```
    """

    def __init__(
        self,
        reference: Any,
        features: Features | None = None,
        every: int = 1,
        plan: Plan | None = None,
        saying: Callable | None = None,
    ):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be 1 or more epochs. Received: every={every}")
        self.reference, self.features = reference, features or Pixels()
        self.every, self.saying = every, saying
        self.plan = plan or Plan(num_images=1000, steps=20)
        self.scores: list[measures.Score] = []

    @property
    def monitor(self) -> str:
        """The name of the Fréchet distance in the logs."""
        return measures.key_of(measures.names(measures.MEASURES["frechet"], self.features)[0])

    def on_train_begin(self, logs=None):
        shape = image_shape(self.model)
        if not isinstance(self.reference, Reference):
            size = {"image_size": shape[:2], "channels": shape[2]}
            self.reference = references.reference(self.reference, self.features, **size)
        self.plan.told(self.model.network, self.reference.conditions)  # so that errors come now

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params["epochs"]
        if (epoch + 1) % self.every and not last:
            return
        with self.saying("scoring") if self.saying else contextlib.nullcontext():
            settings = {"known": self.reference.conditions, "listen": False}
            made = produced(self.model, self.features, self.plan, **settings)
        self.scores = measures.measured(made, self.reference.statistics, self.features)
        if logs is not None:
            logs.update({score.key: score.value for score in self.scores})
