"""Make consistency.npz: the loss of Easy Consistency Tuning on random images, and its gaps.

The foreign code is training/loss.py of locuslab/ect at commit 4311059, imported from its own folder
and never copied here, with torch 2.13.0 on CPU. Command:

    python tests/goldens/make_consistency.py FOLDER

FOLDER is a checkout of that commit. The network is a formula, D(x, t) = x / (1 + t²) + tanh(x) / 3,
so that the loss alone is compared. Its state of CUDA's random numbers, which there is none of here,
is a stand-in. Each case is q, c, k and the stage.
"""

import math
import pathlib
import sys
import unittest.mock

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
CASES = [(2, 0.0, 8, 0), (2, 0.06, 8, 3), (4, 0.03, 0, 1), (256, 0.0, 8, 0)]
COUNT, SHAPE, SEED = 12, (2, 3, 3), 7


def network(x, t, *_, **__):
    """D(x, t)."""
    return x / (1 + t**2) + torch.tanh(x) / 3


def main(folder):
    """Write the file."""
    sys.path.insert(0, folder)
    torch.cuda.get_rng_state = torch.cuda.set_rng_state = unittest.mock.MagicMock()
    from training import loss

    images = torch.randn((COUNT, *SHAPE), generator=torch.Generator().manual_seed(SEED))
    arrays = {"images": images.numpy(), "cases": np.array(CASES)}
    for place, (q, c, k, stage) in enumerate(CASES):
        foreign = loss.ECMLoss(q=q, c=c, k=float(k))
        foreign.update_schedule(stage)
        torch.manual_seed(place)
        arrays[f"loss_{place}"] = foreign(network, images).numpy()
        torch.manual_seed(place)  # what it has drawn, in its order
        normal = torch.randn([COUNT, 1, 1, 1])
        t = (normal * foreign.P_std + foreign.P_mean).exp()
        arrays[f"t_{place}"] = t.flatten().numpy()
        arrays[f"r_{place}"] = foreign.t_to_r(t).flatten().numpy()
        arrays[f"noise_{place}"] = torch.randn_like(images).numpy()
    assert all(math.isfinite(array.sum()) for array in arrays.values())
    np.savez_compressed(HERE / "consistency.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
