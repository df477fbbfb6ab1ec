"""Laws of whole pipelines: a folder of diffusers with its autoencoder, or one beside a network."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from autoencoder_weights import folder

from keras_dit import Diffusion, guidance, solvers, weights
from keras_dit.cli import main, models
from keras_dit.codecs import Autoencoder, Latents

NAMES = ["tench, Tinca tinca", "golden retriever", "crane, tench"]
FILES = pathlib.Path(__file__).parent / "goldens" / "weights"


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline of a small DiT as diffusers writes it, its autoencoder at half the size."""
    shutil.copytree(FILES / "diffusers", tmp_path / "pipeline")
    folder("stable_diffusion", tmp_path / "pipeline" / "vae", {"scaling_factor": 0.5})
    index = {"_class_name": "DiTPipeline", "id2label": dict(enumerate(NAMES))}
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps(index))
    return tmp_path / "pipeline"


def test_a_pipeline_is_loaded_whole_and_goes_back(pipeline, tmp_path):
    diffusion = Diffusion.from_preset(pipeline, ema=None)
    codec = diffusion.codec
    assert (codec.scale, codec.network.trainable) == (0.5, False)
    assert codec.identity == Autoencoder.from_preset(pipeline).identity
    seen = []
    images = diffusion.generate([0, 1], steps=2, callback=lambda *step: seen.append(step[-1]))
    height, width, _ = diffusion.network.image_shape
    assert images.shape == (2, 2 * height, 2 * width, 3)
    np.testing.assert_allclose(images, Autoencoder(codec.network).decode(2 * seen[-1]), atol=1e-4)

    process = {"process": diffusion.process, "codec": codec}
    with pytest.warns(UserWarning, match="DiTPipeline of diffusers takes 1000"):
        weights.export(diffusion.network, tmp_path / "again", format="diffusers", **process)
    again = Diffusion.from_preset(tmp_path / "again", ema=None)
    assert (again.codec.scale, again.codec.identity) == (0.5, codec.identity)
    assert again.process == diffusion.process


def test_another_method_leaves_the_autoencoder_as_it_is(pipeline, tmp_path):
    found = models.load(str(pipeline), method="ddpm").diffusion
    assert found.codec.scale == 0.5
    assert found.codec.identity == Autoencoder.from_preset(pipeline).identity
    file = tmp_path / "alone.pt"
    weights.export(found.network, file, format="facebook_dit", codec=Latents(2.0))
    again = Diffusion.from_preset(file, process=found.process, ema=None)
    assert again.codec == Latents(2.0)


def test_sample_decodes_a_pipeline_and_takes_labels_by_name(pipeline, tmp_path, capsys):
    out = tmp_path / "one"

    def sample(labels):
        asked = ["--steps", "2", "--out", f"{out}/", "--labels", labels]
        code = main(["sample", str(pipeline), *asked])
        return code, capsys.readouterr()

    code, said = sample("golden retriever,Tinca tinca,2")
    assert code == 0
    assert "first channels" not in said.out
    assert sorted(file.name for file in out.iterdir()) == [
        "00000_golden-retriever.png", "00001_tench--Tinca-tinca.png", "00002_crane--tench.png",
    ]  # fmt: skip
    code, said = sample("golden")
    assert code == 2
    assert "one of golden retriever" in said.err
    code, said = sample("tench")
    assert code == 2
    assert "give a number, 0 and 2 are both called 'tench'" in said.err


def test_the_published_way_of_dit_as_one_command(pipeline, tmp_path, capsys):
    """That of docs/autoencoders.md, with fewer steps: a bare network, another's autoencoder."""
    run = ["sample", str(FILES / "train.pt"), "--num-heads", "2", "--labels", "0,1"]
    way = ["--solver", "ddpm", "--steps", "5", "--guidance", "4", "--guidance-channels", "3"]
    out = tmp_path / "images.npy"
    assert main([*run, *way, "--out", str(out), "--autoencoder", str(pipeline / "vae")]) == 0
    codec = Autoencoder.from_preset(pipeline)
    model = Diffusion.from_preset(FILES / "train.pt", num_heads=2, ema=None, codec=codec)
    assert model.network.learned_variance
    seen = []
    setting = {"solver": solvers.DDPM(), "guidance": guidance.ClassifierFree(4.0, channels=3)}
    model.generate([0, 1], steps=5, **setting, callback=lambda *step: seen.append(step[-1]))
    np.testing.assert_allclose(np.load(out), codec.decode(seen[-1]), atol=1e-4)


def test_sample_decodes_a_bare_network_by_another_s_autoencoder(pipeline, tmp_path, capsys):
    run = ["sample", str(FILES / "train.pt"), "--num-heads", "2", "--steps", "2", "--labels", "0"]
    out = tmp_path / "grid.png"
    model = tmp_path / "whole.keras"
    assert main(["convert", str(FILES / "train.pt"), str(model), "--num-heads", "2",
                 "--autoencoder", str(pipeline / "vae")]) == 0  # fmt: skip
    kept = keras.saving.load_model(model).codec
    assert (kept.scale, kept.identity) == (0.5, Autoencoder.from_preset(pipeline).identity)
    grey = folder("attention_in_levels", tmp_path / "other")
    assert main([*run, "--out", str(out), "--autoencoder", str(grey)]) == 2
    assert "latents have 8 channels, and the network is for 4" in capsys.readouterr().err
