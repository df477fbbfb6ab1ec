"""Make scores.npz: scores of random features by torch-fidelity.

The foreign code is torch-fidelity 0.4.0 (Apache-2.0) with torch 2.13.0 on CPU. Command:

    python tests/goldens/make_scores.py

Those of the evaluator of ADM are in adm.npz.
"""

import pathlib

import numpy as np
import torch
import without_torchvision  # noqa: F401  (first)
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

HERE = pathlib.Path(__file__).parent


def main():
    """Draw features and logits, score them and write both."""
    draws = np.random.RandomState(0)
    real = draws.normal(size=(120, 12))
    generated = draws.normal(size=(90, 12)) * np.linspace(0.5, 1.2, 12) + 0.2
    logits = 3 * draws.normal(size=(95, 9)).astype("float32")
    a, b = torch.from_numpy(generated), torch.from_numpy(real)
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    kernel = {"kid_subsets": 7, "kid_subset_size": 60, "verbose": False}
    close = {"prc_neighborhood": 3, "prc_batch_size": 50, "save_cpu_ram": False, "verbose": False}
    scores = {
        "frechet": fid_statistics_to_metric(*statistics, False),
        "kernel": kid_features_to_metric(a, b, rng_seed=2020, **kernel),
        "inception": isc_features_to_metric(torch.from_numpy(logits), 10, shuffle=False),
        "precision_recall": prc_features_to_metric(a, b, **close),
    }
    found = {name: np.array(list(values.values())) for name, values in scores.items()}
    for name, values in scores.items():
        print(name, values)
    inputs = {"real": real, "generated": generated, "logits": logits}
    np.savez_compressed(HERE / "scores.npz", **inputs, **found)


if __name__ == "__main__":
    main()
