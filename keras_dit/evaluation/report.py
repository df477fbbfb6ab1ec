"""A score with all that it depends on: which images, which reference, which features."""

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_dit import backend, files
from keras_dit.diffusion import Diffusion
from keras_dit.evaluation import measures, references
from keras_dit.evaluation.features import Features, Pixels
from keras_dit.evaluation.inception import PUBLISHED, URL
from keras_dit.evaluation.keeping import kept as kept_in
from keras_dit.evaluation.measures import Score
from keras_dit.evaluation.production import Plan, as_bytes, model_digest, produced
from keras_dit.evaluation.references import Reference
from keras_dit.evaluation.statistics import Statistics

__all__ = ["Report", "compare", "evaluate", "image_shape"]


class Report(NamedTuple):
    """Scores, and what they are of.

    Attributes:
        scores: a tuple of `Score`s.
        facts: what was compared with what and how, in words and numbers.
        notes: what to bear in mind with these numbers.
    """

    scores: tuple[Score, ...]
    facts: dict
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: Any) -> Any:
        """The value of a score by its name or its key; by a number, as of a tuple."""
        if not isinstance(name, str):
            return tuple.__getitem__(self, name)
        for score in self.scores:
            if name in (score.name, score.key):
                return score.value
        raise KeyError(f"{name}; there are: {', '.join(score.name for score in self.scores)}")

    def to_json(self) -> str:
        """All of it, as `report.json` has it."""
        scores = {}
        for score in self.scores:
            found = {"name": score.name, "value": score.value, "better": score.better}
            if score.std is not None:
                found["std"] = score.std
            if score.interval is not None:
                found["interval"] = list(score.interval)
            scores[score.key] = found
        whole = {"scores": scores, **self.facts, "notes": list(self.notes)}
        return json.dumps(whole, indent=2) + "\n"

    def rows(self) -> list[tuple[str, str, str]]:
        """The scores as rows of text with a heading: name, value, which is better."""
        rows = [("score", "value", "better")]
        for score in self.scores:
            value = f"{score.value:.4g}"
            if score.std is not None:
                value += f" +- {score.std:.2g}"
            if score.interval is not None:
                value += " ({:.4g} to {:.4g})".format(*score.interval)
            rows.append((score.name, value, score.better))
        return rows

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_json` to a file."""
        with files.beside(path) as new:
            new.write_text(self.to_json())


def versions() -> dict:
    """Versions of what a number may depend on."""
    package = {"jax": "jax", "torch": "torch", "tensorflow": "tensorflow"}[backend.BACKEND]
    try:
        of_backend = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name
        of_backend = "unknown"
    return {
        "keras_dit": importlib.metadata.version("keras_dit"),
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": f"{backend.BACKEND} {of_backend}",
        "device": backend.device_name(),
    }


def _notes(statistics, reference, features):
    notes = []
    for what, found in (("images", statistics), ("reference", reference.statistics)):
        moments = found.moments["pool"]
        if 0 < moments.count <= moments.dimensions:
            notes.append(
                f"{what}: {moments.count} images for {moments.dimensions} dimensions: the "
                "Frechet distance is far too high, compare only with the same numbers of images"
            )
    if features.published and not (features.digest or "").startswith(PUBLISHED):
        notes.append(f"the weights of Inception are not those of {URL}")
    if not features.published:
        notes.append(f"scores of {features.name} are no FID: compare only with such")
    return tuple(notes)


def _check_count(count):
    if count < 2:
        raise ValueError(
            "scores take two images or more, and mean something of thousands. "
            f"Received: {count} image"
        )


def reported(
    statistics: Statistics,
    reference: Reference,
    features: Features,
    facts: dict,
    bootstrap: int | None = None,
) -> Report:
    """The report of statistics beside a reference.

    Args:
        statistics: of the images.
        reference: what they are compared with.
        features: what both were made with.
        facts: what the images are.
        bootstrap: rounds for the interval of the Fréchet distance; None: no interval.

    Raises:
        ValueError: for a single image.
    """
    _check_count(statistics.count)
    scores = measures.measured(statistics, reference.statistics, features)
    if bootstrap is not None:
        interval = measures.interval(statistics, reference.statistics, bootstrap)
        scores[0] = scores[0]._replace(interval=tuple(interval))
    network = {"name": features.name, "sha256": features.digest}
    facts = {
        **facts,
        "reference": reference.facts,
        "features": network,
        "scores from": {
            "features kept": [len(statistics.features), len(reference.statistics.features)],
            "kernel subsets": f"{measures.SUBSETS} of at most {measures.SUBSET_SIZE}",
            "neighbour": measures.NEIGHBOUR,
            "splits": statistics.splits,
        },
        "versions": versions(),
    }
    return Report(tuple(scores), facts, _notes(statistics, reference, features))


def evaluate(
    diffusion: Diffusion,
    reference: Any,
    features: Features | None = None,
    plan: Plan | None = None,
    folder: str | os.PathLike | None = None,
    keep: str | os.PathLike | None = None,
    bootstrap: int | None = None,
    verbose: bool = False,
) -> Report:
    """Make images with a model and score them beside real ones.

    Args:
        diffusion: the model; its averaged weights are used.
        reference: as for `evaluation.reference`, or what that gives.
        features: what images are compared by; None: `Pixels()`.
        plan: how many images are made, and how; None: `Plan()`.
        folder: where the state is kept, so that an interrupted run goes on, and `report.json` is
            written; None: nowhere.
        keep: a folder or an `.npz` file for the images; None: they are thrown away.
        bootstrap: rounds for the interval of the Fréchet distance; None: no interval.
        verbose: whether to show progress.

    Returns:
        A `Report`.

    Raises:
        ValueError: for a model that makes no images, a reference that does not fit it, or a folder
            that holds an evaluation with other settings.
        Stopped: after Ctrl-C or SIGTERM; the same call goes on.

    Example:

    >>> network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=10)
    >>> plan = Plan(num_images=20, steps=2)
    >>> digits = reference("digits", Pixels(), folder="statistics")
    >>> report = evaluate(keras_dit.Diffusion(network), digits, plan=plan)
    >>> [score.name for score in report.scores][0]
    'Frechet distance of pixels'
    """
    features, plan = features or Pixels(), plan or Plan()
    folder = None if folder is None else pathlib.Path(folder)
    shape = image_shape(diffusion)
    _check_count(plan.num_images)
    if not isinstance(reference, Reference):
        height, width, channels = shape
        reference = references.reference(
            reference, features, (height, width), channels, verbose=verbose
        )
    statistics = produced(
        diffusion,
        features,
        plan,
        known=reference.conditions,
        folder=folder,
        kept=None if keep is None else kept_in(keep, (plan.num_images, *shape)),
        keep=max(10_000, plan.num_images if bootstrap else 0),
        verbose=verbose,
    )
    chosen = plan.told(diffusion.network, reference.conditions)
    sampling = {**plan.facts(), "conditions": chosen.facts}
    network = diffusion.network
    held = {"dtype": ", ".join([*network.quantized, network.compute_dtype])}
    facts = {"model": model_digest(diffusion), **held, "sampling": sampling}
    report = reported(statistics, reference, features, facts, bootstrap)
    if folder is not None:
        report.save(folder / "report.json")
    return report


def image_shape(diffusion: Diffusion) -> tuple[int, int, int]:
    """(H, W, C) of the images that a model makes, which the reference has to have too.

    Raises:
        ValueError: for a model of latents without a codec that decodes them.
    """
    zeros = np.zeros((1, *diffusion.network.image_shape), "float32")
    return as_bytes(diffusion.codec.decode(zeros), diffusion.codec).shape[1:]


def compare(
    images: Any,
    reference: Any,
    features: Features | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    bootstrap: int | None = None,
    verbose: bool = False,
) -> Report:
    """Score a set of images beside another, without a model.

    Args:
        images, reference: as for `evaluation.reference`.
        features: what images are compared by; None: `Pixels()`.
        image_size, channels: of folders of images.
        bootstrap: rounds for the interval of the Fréchet distance; None: no interval.
        verbose: whether to show progress.

    Returns:
        A `Report`.

    Raises:
        ValueError: for sets of images of different sizes.
    """
    features = features or Pixels()
    keep = 10**9 if bootstrap else 10_000

    def summed(source):
        if isinstance(source, Reference):
            return source
        return references.reference(
            source, features, image_size, channels, keep=keep, verbose=verbose
        )

    a, b = summed(images), summed(reference)
    return reported(a.statistics, b, features, {"images": a.facts}, bootstrap)
