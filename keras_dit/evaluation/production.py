"""Images made for a score, batch by batch, so that a killed run goes on to the same numbers.

Image i has the seed `seed + i` and what it is told, and depends on nothing else: any part of a set
can be made again alone. What was summed up so far is written to the disk about every half minute,
with what it was made of.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_dit import backend, interrupts
from keras_dit import images as pixels
from keras_dit.diffusion import Diffusion
from keras_dit.evaluation import storage
from keras_dit.evaluation.features import Features, digest_of_arrays
from keras_dit.evaluation.keeping import Kept
from keras_dit.evaluation.statistics import Statistics
from keras_dit.evaluation.told import POLICIES, Told, told
from keras_dit.guidance import Guidance, Unguided
from keras_dit.networks.base import Network
from keras_dit.progress import Bar
from keras_dit.registry import one_of
from keras_dit.sampling.caching import Cache
from keras_dit.schedules import TimeGrid
from keras_dit.solvers import DDIM, Solver

__all__ = ["Plan", "Stopped", "as_bytes", "produced"]

SECONDS = 30.0  # between two times that the state is written
STOPPING = "ending after this batch, which is kept; once more: at once"


class Stopped(KeyboardInterrupt):
    """The production was asked to end (Ctrl-C or SIGTERM), and goes on another time."""

    def __init__(self, number, done, count):
        super().__init__(f"interrupted; {done} of {count} images are done and summed up")
        self.signal = number


@dataclass(frozen=True)
class Plan:
    """How the images of a score are made.

    Args:
        num_images: how many.
        labels: how conditions are chosen, such as labels, a name of `POLICIES`: "balanced": each
            class in turn; "data": as often as in the reference; "none": nothing is said.
        conditions: values by name, one for each image, or fewer, which come in turn; what is not
            named follows the policy.
        steps, solver, guidance, grid, cache: as for `Diffusion.generate`.
        seed: of the first image; the next ones count up.
        batch_size: images at once.
    """

    num_images: int = 10_000
    labels: str = "balanced"
    conditions: dict | None = None
    steps: int | None = 50
    solver: Solver = DDIM()  # noqa: RUF009  (frozen)
    guidance: Guidance = Unguided()  # noqa: RUF009
    grid: TimeGrid | None = None
    cache: Cache | None = None
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self):
        one_of("labels", self.labels, POLICIES)
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more. Received: {getattr(self, name)}")

    def told(self, network: Network, known: Mapping[str, Any] | None = None) -> Told:
        """What each image is told: see `told.told`."""
        return told(network, self.labels, self.num_images, self.seed, self.conditions, known)

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
    if diffusion.network.compute_dtype != diffusion.network.variable_dtype:  # which values tell
        parts.append(diffusion.network.compute_dtype)
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
    known: Mapping[str, Any] | None = None,
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
        known: what the reference says of its images, values by the names of conditions.
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
    chosen = plan.told(diffusion.network, known)
    facts = {"model": model_digest(diffusion), **plan.facts(), "keep": keep}
    facts |= {"features": f"{features.name} {features.digest}", "images kept": kept is not None}
    facts["conditions"] = chosen.digest
    state = _State(folder / "state.npz" if folder and not backend.helps() else None, facts)
    statistics = state.begun(count, keep)
    # Cut by the number of images alone: a run that goes on has the same batches.
    size = math.ceil(count / math.ceil(count / plan.batch_size))
    look = {"desc": "sampling", "unit": " images", "initial": statistics.count}
    first = "compiling" if statistics.count < count else None
    noted: list[int] = []
    heard: contextlib.AbstractContextManager = contextlib.nullcontext()
    if listen and not backend.helps():
        heard = interrupts.heard((signal.SIGINT, signal.SIGTERM), STOPPING, noted.append)

    def make(start):
        made = _batch(diffusion, plan, chosen, start, size)[: count - start]
        return features(made), None if kept is None else made

    starts = range(statistics.count, count, size)
    with heard, Bar(total=count, disable=not verbose, first=first, **look) as bar:
        for (found, made), start in zip(backend.shared(make, starts), starts, strict=True):
            stop = min(start + size, count)
            statistics.add(found)
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
        kept.finish(chosen.of(range(count)).get("label"))
    return statistics


def _batch(diffusion, plan, chosen, start, size):
    """So many images from `start` on, uint8 (B, H, W, C).

    The last batch is as large as the others, since one of another size would take another
    program: what is too much is told anything.
    """
    places = np.arange(start, start + size)
    request = {
        "conditions": chosen.of(places % plan.num_images),
        "num_images": size,
        "seed": [plan.seed + int(i) for i in places],
    }
    names = ("steps", "solver", "guidance", "grid", "cache", "batch_size")
    settings = {name: getattr(plan, name) for name in names}
    # Not `generate`, which gives estimates where it is interrupted: they must not be counted.
    (made,) = diffusion.generate_batches(**request, **settings)
    return as_bytes(made, diffusion.codec)
