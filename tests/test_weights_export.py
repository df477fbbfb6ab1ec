"""Laws of keras_dit.weights.export: what goes out is what came in, for the original program too."""

import json
import pathlib
import zipfile

import numpy as np
import pytest
from keras import ops

from keras_dit import DiTModel, weights
from keras_dit.weights.files import pytorch
from keras_dit.weights.files.stored import Stored

FILES = pathlib.Path(__file__).parent / "goldens" / "weights"


def read(path):
    return {name: tensor.read() for name, tensor in weights.open_source(path).tensors.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_round_trip_gives_the_same_tensors(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    network = weights.load(FILES / "legacy.pt", num_heads=2)
    weights.export(network, tmp_path / f"new/exported{suffix}")
    assert_equal(read(tmp_path / f"new/exported{suffix}"), read(FILES / "legacy.pt"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == [f"exported{suffix}"]


def test_pytorch_loads_an_exported_file_without_trusting_it(tmp_path):
    torch = pytest.importorskip("torch")
    weights.export(weights.load(FILES / "legacy.pt", num_heads=2), tmp_path / "exported.pt")
    for mmap in (False, True):
        exported = torch.load(tmp_path / "exported.pt", weights_only=True, mmap=mmap)
        assert_equal(
            {name: tensor.numpy() for name, tensor in exported.items()}, read(FILES / "legacy.pt")
        )


def test_what_is_written_does_not_depend_on_the_day(tmp_path):
    network = weights.load(FILES / "legacy.pt", num_heads=2)
    for name in ("one.pt", "two.pt"):
        weights.export(network, tmp_path / name)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    assert zipfile.ZipFile(tmp_path / "one.pt").testzip() is None


def test_a_mixed_precision_network_is_exported_in_full(tmp_path):
    network = weights.load(FILES / "legacy.pt", num_heads=2, dtype="mixed_bfloat16")
    weights.export(network, tmp_path / "exported.pt")
    assert_equal(read(tmp_path / "exported.pt"), read(FILES / "legacy.pt"))


def test_a_folder_of_diffusers_comes_back(tmp_path):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    original = FILES / "diffusers" / "transformer"
    weights.export(weights.load(original), tmp_path / "out", format="diffusers")
    name = "diffusion_pytorch_model.safetensors"
    assert_equal(load_file(tmp_path / "out" / name), load_file(original / name))
    config = json.loads((original / "config.json").read_text())
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert exported == {key: config[key] for key in exported}


def test_diffusers_loads_an_exported_folder_and_gives_the_same(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    network = weights.load(FILES / "diffusers")
    weights.export(network, tmp_path, format="diffusers")
    theirs, facts = diffusers.DiTTransformer2DModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    with np.load(FILES / "diffusers.npz") as arrays:
        x, t, y, expected = (arrays[key] for key in ("x", "t", "y", "output"))
    with torch.no_grad():
        output = theirs(*map(torch.from_numpy, (x, t, y))).sample.numpy()
    np.testing.assert_array_equal(output, expected)


def test_a_new_network_can_be_exported_and_loaded(tmp_path):
    """What was not trained elsewhere: rectangular, another MLP, no learned variance."""
    network = DiTModel((4, 8, 3), 2, 12, 2, 3, num_classes=4, mlp_ratio=2.5)
    weights.export(network, tmp_path / "new.pt")
    again = weights.load(tmp_path / "new.pt", num_heads=3, input_shape=(4, 8, 3))
    assert again.config == network.config
    for one, other in zip(again.weights, network.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_time_features_that_diffusers_does_not_have_are_warned_of(tmp_path):
    pytest.importorskip("safetensors")
    network = weights.load(FILES / "legacy.pt", num_heads=2)
    with pytest.warns(UserWarning, match="diffusers computes the time's features otherwise"):
        weights.export(network, tmp_path, format="diffusers")
    assert_equal(read(tmp_path), read(FILES / "legacy.pt"))
    assert weights.load(tmp_path).blocks[0].mlp_norm.epsilon == 1e-6


def test_an_interrupted_export_leaves_the_file_that_was_there(tmp_path):
    weights.export(weights.load(FILES / "legacy.pt", num_heads=2), tmp_path / "dit.pt")
    before = (tmp_path / "dit.pt").read_bytes()

    def interrupted():
        raise KeyboardInterrupt

    tensors = {"first": Stored((2,), lambda: np.ones(2)), "second": Stored((2,), interrupted)}
    with pytest.raises(KeyboardInterrupt):
        pytorch.write(tensors, tmp_path / "dit.pt")
    assert (tmp_path / "dit.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
