"""Make inception.npz: the features of torch-fidelity's Inception under random weights.

The foreign code is torch-fidelity 0.4.0 (Apache-2.0) with torch 2.13.0 on CPU. Command:

    python tests/goldens/make_inception.py

Weights and images: tests/inception_weights.py. The spatial features are the first seven channels
of the output of Mixed_6d.branch1x1, which is mixed_6/conv of the graph that ADM's evaluator takes.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import without_torchvision  # noqa: F401  (first)
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import inception_weights  # noqa: E402

NAMES = ["2048", "logits_unbiased", "logits"]


def network():
    """torch-fidelity's network with the weights of the rule."""
    shapes = {}

    def keep_shapes(self, state, *_, **__):
        shapes.update({name: tuple(value.shape) for name, value in self.state_dict().items()})

    with tempfile.NamedTemporaryFile() as file:
        torch.save({}, file.name)
        load = FeatureExtractorInceptionV3.load_state_dict
        FeatureExtractorInceptionV3.load_state_dict = keep_shapes
        made = FeatureExtractorInceptionV3("inception", NAMES, file.name)
        FeatureExtractorInceptionV3.load_state_dict = load
    state = {
        name: torch.from_numpy(inception_weights.tensor(name, shape))
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }
    made.load_state_dict(state, strict=False)
    return made.eval()


def main():
    """Run it on each image and write what comes out."""
    made, found = network(), {"pool": [], "logits_unbiased": [], "logits": [], "spatial": []}
    made.Mixed_6d.branch1x1.register_forward_hook(
        lambda _, __, out: found["spatial"].append(out[:, :7].permute(0, 2, 3, 1).numpy())
    )
    with torch.no_grad():
        for image in inception_weights.images():
            outputs = made(torch.from_numpy(image).permute(0, 3, 1, 2))
            for name, value in zip(("pool", "logits_unbiased", "logits"), outputs):
                found[name].append(value.numpy())
    for name, parts in found.items():
        found[name] = np.concatenate(parts)
        print(name, found[name].shape, found[name].mean(), found[name].std())
    np.savez_compressed(HERE / "inception.npz", **found)
    if sys.argv[1:]:
        torch.save(made.state_dict(), sys.argv[1])


if __name__ == "__main__":
    main()
