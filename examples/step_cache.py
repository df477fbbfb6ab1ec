"""What each cache saves and what it costs, as a table.

    keras-dit demo --out demo
    python examples/step_cache.py demo/digits.keras

Makes digits with DDIM in 50 steps under guidance 2, without a cache, in fewer steps, and then with
each cache. Prints the share of the network's evaluations that were reused, and that were skipped
since no digit of a batch needed them; the seconds; how far the digits are from the first ones,
‖a − b‖ / ‖b‖; and their Fréchet distance to all real ones, in pixels, which fewer digits enlarge.
"""

import argparse
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "torch", "tensorflow"

import keras
import numpy as np

import keras_dit
from keras_dit import guidance, metrics
from keras_dit.caching import FirstBlockCache, PeriodicCache

STEPS = 50
FEWER = 25, 17  # without a cache, for comparison
CACHES = [(FirstBlockCache, threshold) for threshold in (0.0, 0.05, 0.1, 0.2, 0.4)]
CACHES += [(PeriodicCache, every) for every in (2, 3, 4, 6)]
ROW = "{:20} {:>7} {:>8} {:>8} {:>6} {:>9}"


def timed(model, cache, settings, steps=STEPS):
    """Digits, and the seconds that they take once the steps are compiled."""
    model.generate(steps=3, cache=cache, **settings)
    start = time.perf_counter()
    digits = model.generate(steps=steps, cache=cache, **settings)
    return digits, time.perf_counter() - start


def row(name, reuse, seconds, digits, uncached, real):
    """A line of the table."""
    error = np.linalg.norm(digits - uncached) / np.linalg.norm(uncached)
    distance = metrics.frechet_distance(digits, real)
    shares = [f"{share:.0%}" for share in reuse]
    print(
        ROW.format(name, *shares, f"{seconds:.1f}", f"{error:.3f}", f"{distance:.3f}"), flush=True
    )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="digits.keras of `keras-dit demo`")
    parser.add_argument("--count", type=int, default=512, help="digits (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    arguments = parser.parse_args()
    model = keras.saving.load_model(arguments.model)
    real, labels = keras_dit.datasets.load_digits()
    settings = {
        "labels": labels[: arguments.count],
        "guidance": guidance.ClassifierFree(2.0),
        "batch_size": arguments.batch_size,
    }
    print(ROW.format("cache", "reused", "skipped", "seconds", "error", "distance"))
    uncached, seconds = timed(model, None, settings)
    row("none", (0, 0), seconds, uncached, uncached, real)
    for steps in FEWER:
        digits, seconds = timed(model, None, settings, steps)
        row(f"none, {steps} steps", (0, 0), seconds, digits, uncached, real)
    for cache, number in CACHES:
        reports = []
        digits, seconds = timed(model, cache(number, report=reports.append), settings)
        reuse = np.mean(reports[len(reports) // 2 :], axis=0)  # the first half is the short run's
        row(f"{cache.__name__}({number})", reuse, seconds, digits, uncached, real)


if __name__ == "__main__":
    main()
