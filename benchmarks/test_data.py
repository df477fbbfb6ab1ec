"""How long a step waits for its batch of JPEG files: a device that takes so long, by a sleep."""

import time

import numpy as np
import pytest

from keras_dit import datasets

STEPS, BATCH, FILES = 12, 8, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of the smoothness of photographs, a quarter larger than what is made of them."""
    image = pytest.importorskip("PIL.Image")
    made = {}

    def of(side):
        if side not in made:
            made[side] = tmp_path_factory.mktemp(f"side{side}")
            random = np.random.default_rng(0)
            for i in range(FILES):
                small = random.integers(0, 256, (side // 8, side // 8, 3)).astype("uint8")
                large = image.fromarray(small).resize((side * 5 // 4, side * 5 // 4))
                large.save(made[side] / f"{i}.jpg", quality=90)
        return made[side]

    return of


@pytest.mark.parametrize("ahead", [False, True], ids=["asked", "ahead"])
@pytest.mark.parametrize("device", [5, 20, 100], ids=lambda ms: f"{ms}ms")
@pytest.mark.parametrize("side", [64, 256, 512])
def test_waiting_for_files(benchmark, folder, side, device, ahead):
    batches = datasets.image_folder(folder(side), side, batch_size=BATCH)
    read = batches.batch if ahead else lambda *place: batches._batch((*place, (0, 1)))
    waited = []

    def steps():
        waited.clear()
        for step in range(STEPS):
            start = time.perf_counter()
            read(*divmod(step, len(batches)))
            waited.append(time.perf_counter() - start)
            time.sleep(device / 1000)

    benchmark.pedantic(steps, rounds=3, warmup_rounds=1)
    wait = float(np.median(waited[4:]))  # once it runs
    share = wait / (wait + device / 1000)
    benchmark.extra_info.update(side=side, device_ms=device, ahead=ahead, waiting_share=share)
