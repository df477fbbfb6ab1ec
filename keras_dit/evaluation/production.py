"""Images made for a score, batch by batch, so that a killed run goes on to the same numbers.

Image i has the seed `seed + i` and its label, and depends on nothing else: any part of a set can be
made again alone. What was summed up so far is written to the disk about every half minute, with
what it was made of.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_dit import draws, interrupts
from keras_dit import images as pixels
from keras_dit.diffusion import Diffusion
from keras_dit.evaluation import storage
from keras_dit.evaluation.features import Features, digest_of_arrays
from keras_dit.evaluation.keeping import Kept
from keras_dit.evaluation.statistics import Statistics
from keras_dit.guidance import Guidance, Unguided
from keras_dit.progress import Bar
from keras_dit.registry import Registry, one_of
from keras_dit.sampling.caching import Cache
from keras_dit.schedules import TimeGrid
from keras_dit.solvers import DDIM, Solver

__all__ = ["LABELS", "Plan", "Stopped", "as_bytes", "labels_of", "produced"]

SECONDS = 30.0  # between two times that the state is written
STOPPING = "ending after this batch, which is kept; once more: at once"


class Stopped(KeyboardInterrupt):
    """The production was asked to end (Ctrl-C or SIGTERM), and goes on another time."""

    def __init__(self, number, done, count):
        super().__init__(f"interrupted; {done} of {count} images are done and summed up")
        self.signal = number


def _balanced(classes, count, seed, data):
    return np.arange(count) % classes


def _like_the_data(classes, count, seed, data):
    if data is None:
        raise ValueError("labels like the data's need a reference that has labels")
    # By the raw numbers of the generator, which are the same in every version of numpy.
    words = draws.permutation(count, seed, 0)
    return np.searchsorted(np.cumsum(data) / np.sum(data), (words + 0.5) / count, side="right")


LABELS = Registry("labels", {"balanced": _balanced, "data": _like_the_data})


def labels_of(
    policy: str, classes: int | None, count: int, seed: int = 0, data: Any = None
) -> np.ndarray | None:
    """A label for each image of a set.

    Args:
        policy: "balanced": each class in turn; "data": each class by its share of the reference,
            in random order.
        classes: of the network; None: there are none, and no labels.
        count: of images.
        seed: of the order.
        data: how many images of each class the reference has, int (K,), or None.

    Returns:
        int (count,), or None.

    Raises:
        ValueError: for another policy, or a reference without labels where they are needed.

    Example:

    >>> labels_of("balanced", classes=3, count=5).tolist()
    [0, 1, 2, 0, 1]
    >>> sorted(labels_of("data", classes=2, count=4, data=[1, 3]).tolist())
    [0, 1, 1, 1]
    """
    one_of("labels", policy, LABELS)
    if classes is None:
        return None
    if data is not None and len(data) > classes:
        raise ValueError(
            f"the reference must have at most the classes of the network, {classes}. "
            f"Received: {len(data)} classes"
        )
    return LABELS[policy](classes, count, seed, data).astype("int32")


@dataclass(frozen=True)
class Plan:
    """How the images of a score are made.

    Args:
        num_images: how many.
        labels: the policy, a name of `LABELS`.
        steps, solver, guidance, grid, cache: as for `Diffusion.generate`.
        seed: of the first image; the next ones count up.
        batch_size: images at once.
    """

    num_images: int = 10_000
    labels: str = "balanced"
    steps: int | None = 50
    solver: Solver = DDIM()  # noqa: RUF009  (frozen)
    guidance: Guidance = Unguided()  # noqa: RUF009
    grid: TimeGrid | None = None
    cache: Cache | None = None
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self):
        one_of("labels", self.labels, LABELS)
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more. Received: {getattr(self, name)}")

    def facts(self) -> dict:
        """What a report says of it."""
        return {
            "images": self.num_images,
            "labels": self.labels,
            "solver": str(self.solver),
            "steps": self.steps,
            "guidance": str(self.guidance),
            "grid": "the schedule's" if self.grid is None else str(self.grid),
            "cache": "none" if self.cache is None else str(self.cache),
            "seeds": f"{self.seed} to {self.seed + self.num_images - 1}",
            "batch size": self.batch_size,
        }


def as_bytes(images: np.ndarray, codec: Any) -> np.ndarray:
    """Generated images of a codec's range as uint8, as a file of them would have them.

    Raises:
        ValueError: for latents, which are no images.
    """
    if images.shape[-1] not in (1, 3) or not math.isfinite(codec.high):
        raise ValueError(
            "scores are of images: these are latents, and the model has no codec that decodes "
            f"them. Received: shape={images.shape}, codec={codec}"
        )
    return pixels.to_uint8((images - codec.low) / (codec.high - codec.low) * 2.0 - 1.0)


def model_digest(diffusion: Diffusion) -> str:
    """SHA-256 of all that makes an image: the averaged weights, the process and the codec."""
    codec = diffusion.codec
    values = [*diffusion.denoiser().values, *(w for c in diffusion.codec_layers for w in c.weights)]
    plain = {n: v for n, v in codec.get_config().items() if isinstance(v, (int, float, str, tuple))}
    parts = [digest_of_arrays(values), diffusion.process, type(codec).__name__, plain]
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


class _State:
    """The statistics of a run on its way, in a file with what they are made of."""

    def __init__(self, path, facts):
        self.path, self.facts = path, facts
        self.written = time.monotonic()

    def begun(self, total, keep):
        """The statistics so far."""
        if self.path is None or not self.path.is_file():
            return Statistics(total, keep)
        arrays = storage.read_arrays(self.path)
        there = json.loads(str(arrays.pop("facts")))
        if there != self.facts:
            names = there.keys() | self.facts.keys()
            other = sorted(n for n in names if there.get(n) != self.facts.get(n))
            raise ValueError(
                f"{self.path.parent} holds an evaluation with other settings ({', '.join(other)}): "
                "choose another folder, or delete it"
            )
        return Statistics.restored(arrays)

    def write(self, statistics):
        if self.path is not None:
            facts = np.array(json.dumps(self.facts))
            storage.write_arrays(self.path, {"facts": facts, **statistics.arrays()})
        self.written = time.monotonic()

    @property
    def is_due(self):
        return time.monotonic() - self.written > SECONDS


def produced(
    diffusion: Diffusion,
    features: Features,
    plan: Plan,
    label_counts: Any = None,
    folder: pathlib.Path | None = None,
    kept: Kept | None = None,
    keep: int = 10_000,
    verbose: bool = False,
    listen: bool = True,
) -> Statistics:
    """Make images and sum up their features.

    Args:
        diffusion: the model.
        features: a feature extractor.
        plan: how the images are made.
        label_counts: images of each class of the reference, for the policy "data".
        folder: where the state is written, `state.npz`, and found again; None: nowhere.
        kept: where the images are kept; None: nowhere.
        keep: features kept of the first images, at most.
        verbose: whether to show a progress bar.
        listen: whether Ctrl-C and SIGTERM end it after the present batch, when the state is
            written; a second one acts at once. False: somebody else listens, or nobody.

    Raises:
        ValueError: for a model that makes no images, or a folder that holds another run.
        Stopped: after Ctrl-C or SIGTERM.
    """
    count = plan.num_images
    labels = labels_of(plan.labels, diffusion.network.num_classes, count, plan.seed, label_counts)
    facts = {"model": model_digest(diffusion), **plan.facts(), "keep": keep}
    facts |= {"features": f"{features.name} {features.digest}", "images kept": kept is not None}
    if labels is not None:
        facts["label digest"] = digest_of_arrays([labels])
    state = _State(None if folder is None else folder / "state.npz", facts)
    statistics = state.begun(count, keep)
    # Cut by the number of images alone: a run that goes on has the same batches.
    size = math.ceil(count / math.ceil(count / plan.batch_size))
    look = {"desc": "sampling", "unit": " images", "initial": statistics.count}
    first = "compiling" if statistics.count < count else None
    noted: list[int] = []
    heard: contextlib.AbstractContextManager = contextlib.nullcontext()
    if listen:
        heard = interrupts.heard((signal.SIGINT, signal.SIGTERM), STOPPING, noted.append)
    with heard, Bar(total=count, disable=not verbose, first=first, **look) as bar:
        for start in range(statistics.count, count, size):
            stop = min(start + size, count)
            made = _batch(diffusion, plan, labels, start, size)[: stop - start]
            statistics.add(features(made))
            if kept is not None:
                kept.write(start, made)
            bar.update(stop - start)
            if noted or state.is_due or stop == count:
                if kept is not None:
                    kept.flush()
                state.write(statistics)
            if noted and stop < count:
                raise Stopped(noted[0], stop, count)
    if kept is not None:
        kept.finish(labels)
    return statistics


def _batch(diffusion, plan, labels, start, size):
    """So many images from `start` on, uint8 (B, H, W, C).

    The last batch is as large as the others, since one of another size would take another
    program: what is too much has any label.
    """
    places = range(start, start + size)
    request = {
        "labels": None if labels is None else [labels[i % len(labels)] for i in places],
        "num_images": size,
        "seed": [plan.seed + i for i in places],
    }
    names = ("steps", "solver", "guidance", "grid", "cache", "batch_size")
    settings = {name: getattr(plan, name) for name in names}
    # Not `generate`, which gives estimates where it is interrupted: they must not be counted.
    (made,) = diffusion.generate_batches(**request, **settings)
    return as_bytes(made, diffusion.codec)
