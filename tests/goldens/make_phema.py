"""Make phema.npz: power-function averages of NVlabs/edm2 and what it puts together from them.

The foreign code is NVlabs/edm2 at commit 4bf8162 (`training/phema.py`, imported from its own
folder, never copied here) with torch 2.13.0 and numpy 2.4.6 on CPU. Command:

    python tests/goldens/make_phema.py FOLDER

FOLDER is a checkout of that commit. A layer of one weight (4, 3) and a bias (3,) walks at random
for 48 updates of one image each; `walk/0` and `walk/1` are the weights after each update,
`tracked/STD/0` and `.../1` its `PowerFunctionEMA` at every fourth update, in float32. `rebuilt/STD`
is the sum of those by `solve_posthoc_coefficients`, in float64. What the file holds: README.md.
"""

import importlib.util
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
STDS, TARGETS, COUNT, EVERY = (0.05, 0.10), (0.03, 0.075, 0.15, 0.2), 48, 4


def import_phema(folder):
    path = pathlib.Path(folder) / "training" / "phema.py"
    spec = importlib.util.spec_from_file_location("phema", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder):
    phema = import_phema(folder)
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Linear(4, 3)
    average = phema.PowerFunctionEMA(network, stds=list(STDS))
    walk, tracked = [], []
    for update in range(1, COUNT + 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        average.update(cur_nimg=update, batch_size=1)
        walk.append([p.detach().numpy().T.copy() for p in network.parameters()])
        if update % EVERY == 0:
            nets = [net for net, _ in average.get()]
            tracked.append([[p.detach().numpy().T.copy() for p in n.parameters()] for n in nets])
    times = np.arange(EVERY, COUNT + 1, EVERY)
    stds = np.array([0.01, 0.05, 0.1, 0.15, 0.2, 0.25])
    arrays = {"stds": stds, "exponents": phema.std_to_exp(stds), "times": times}
    arrays["widths"] = phema.exp_to_std(arrays["exponents"])
    t = np.array([2, 10, 1000, 10**6])
    arrays["beta_times"] = t
    arrays["betas"] = np.stack([phema.power_function_beta(np.float64(s), t, 1) for s in STDS])
    for place in range(2):
        arrays[f"walk/{place}"] = np.stack([step[place] for step in walk])
        for i, std in enumerate(STDS):
            arrays[f"tracked/{std}/{place}"] = np.stack([step[i][place] for step in tracked])
    in_times, in_stds = np.repeat(times, len(STDS)), np.tile(STDS, len(times))
    for std in TARGETS:
        x = phema.solve_posthoc_coefficients(in_times, in_stds, COUNT, std)[:, 0]
        arrays[f"coefficients/{std}"] = x
        for place in range(2):
            stored = [step[i][place] for step in tracked for i in range(len(STDS))]
            total = sum(f * a.astype("float64") for f, a in zip(x, stored))
            arrays[f"rebuilt/{std}/{place}"] = total
    np.savez_compressed(HERE / "phema.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
