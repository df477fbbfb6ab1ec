"""Laws of what travels with exported weights, and of formats from outside the package."""

import json
import pathlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import (
    Diffusion,
    DiTModel,
    codecs,
    conditions,
    objectives,
    predictions,
    processes,
    schedules,
    weights,
)
from keras_dit.cli import main
from keras_dit.conditions import TimestepEmbedding
from keras_dit.layers import MLP, AdaLNBlock, LayerNorm, RMSNorm, SelfAttention, SwiGLU
from keras_dit.serialization import register
from keras_dit.weights import layout
from keras_dit.weights.files import Stored, pytorch

FILES = pathlib.Path(__file__).parent / "goldens" / "weights"
SMALL = {"patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
FLOW = {
    "schedule": schedules.RectifiedFlow(3.0),
    "prediction": predictions.FlowVelocity(),
    "objective": objectives.MeanSquaredError(times=objectives.LogitNormalTimes()),
    "codec": codecs.Pixels(),
}
NORMS_OF_DIFFUSERS = (LayerNorm(), LayerNorm(1e-5))
TARGETS = ["x.pt", "x.safetensors", "x"]


def trained(**process):
    """A network whose output is not zero, with its process."""
    model = Diffusion(DiTModel((4, 4, 1), **SMALL), **{**FLOW, "ema": None, **process})
    generator = np.random.default_rng(0)
    for weight in model.network.trainable_weights:
        weight.assign(0.2 * generator.standard_normal(weight.shape))
    return model


def parts(model):
    return {name: getattr(model, name) for name in FLOW}


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
@pytest.mark.parametrize("target", TARGETS)
def test_a_converted_flow_model_makes_the_same_images(target, tmp_path):
    """By the command alone: convert RUN x.pt; sample x.pt."""
    trained().save(tmp_path / "run.keras")
    assert main(["convert", str(tmp_path / "run.keras"), str(tmp_path / target)]) == 0
    images = []
    for source in ("run.keras", target):
        out = tmp_path / "images.npy"
        options = ["--labels", "0,1,2", "--steps", "4", "--out", str(out)]
        assert main(["sample", str(tmp_path / source), *options]) == 0
        images.append(np.load(out))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
@pytest.mark.parametrize("target", TARGETS)
def test_process_names_and_shape_come_back(target, tmp_path):
    model = trained()
    names = ["cat", "dog", "Häuschen"]
    format = weights.format_of_target(tmp_path / target)
    weights.export(model.network, tmp_path / target, format, class_names=names, **parts(model))
    source = weights.open_source(tmp_path / target)
    assert source.class_names == tuple(names)
    again = Diffusion.from_preset(tmp_path / target)  # no num_heads=, which no tensor's shape says
    assert parts(again) == parts(model)
    assert again.network.config == model.network.config
    assert Diffusion.from_preset(source).network.config == model.network.config


# With the epsilon of diffusers.
DIFFUSERS = AdaLNBlock(8, 2.5, norm=(LayerNorm(), LayerNorm(1e-5)))


@pytest.mark.parametrize("target", TARGETS[:2])
def test_a_rectangle_and_other_heads_come_back(target, tmp_path):
    network = DiTModel((4, 12, 3), 2, 16, 1, 8, num_classes=4, mlp_ratio=2.5, block=DIFFUSERS)
    weights.export(network, tmp_path / target)
    assert weights.load(tmp_path / target).config == network.config


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["ddpm", "flow"])
def test_a_whole_process_travels(target, name, tmp_path):
    process, network = processes.named(name), trained().network
    format = weights.format_of_target(tmp_path / target)
    weights.export(network, tmp_path / target, format, process=process)
    assert Diffusion.from_preset(tmp_path / target).process == process
    other = Diffusion.from_preset(tmp_path / target, objective=objectives.MeanSquaredError())
    assert other.process.schedule == process.schedule
    assert (tmp_path / target / "scheduler").is_dir() == (target == "x")
    given = Diffusion.from_preset(tmp_path / target, process=processes.named("edm"))
    assert given.process == processes.named("edm")


def test_the_names_of_a_run_travel_through_every_file(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    trained().save(run / "model.keras")
    (run / "config.json").write_text(json.dumps({"class_names": ["cat", "dog", "cow"]}))
    assert main(["convert", str(run), str(tmp_path / "x.pt")]) == 0
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "y.safetensors")]) == 0
    for file in ("x.pt", "y.safetensors"):
        assert weights.open_source(tmp_path / file).class_names == ("cat", "dog", "cow")


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("learned", [True, False])
def test_what_the_other_channels_mean_comes_back(target, learned, tmp_path):
    channels = {"learned_variance": learned, "output_channels": None if learned else 2}
    network = DiTModel((4, 4, 1), **SMALL, **channels)
    format = weights.format_of_target(tmp_path / target)
    weights.export(network, tmp_path / target, format)
    assert weights.load(tmp_path / target).config == network.config


def test_what_a_user_gives_wins_over_what_a_file_says(tmp_path):
    weights.export(trained().network, tmp_path / "x.pt", **FLOW)
    given = {"schedule": schedules.LinearBeta(), "prediction": predictions.Noise()}
    model = Diffusion.from_preset(tmp_path / "x.pt", objective=None, **given)
    assert (model.schedule, model.prediction) == tuple(given.values())
    assert weights.load(tmp_path / "x.pt", num_heads=4).config["num_heads"] == 4


def test_pytorch_and_its_strict_loading_pass_over_it(tmp_path):
    torch = pytest.importorskip("torch")
    network = trained().network
    weights.export(network, tmp_path / "x.pt", class_names="abc", **FLOW)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert state.keys() == layout.shapes(network.config).keys()


def test_safetensors_of_others_pass_over_it(tmp_path):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    network = trained().network
    weights.export(network, tmp_path / "x.safetensors", **FLOW)
    assert load_file(tmp_path / "x.safetensors").keys() == layout.shapes(network.config).keys()


def test_a_process_is_not_made_of_anything_but_what_is_registered(tmp_path):
    """A file's note names classes: none is imported for it, and none runs that makes no process."""
    network = trained().network
    for name in ("os>system", "os.system", "keras_dit>DiTModel", "Dense", "keras_dit>Missing"):
        facts = {"process": {"schedule": {"class": name, "config": {}}}}
        pytorch.write(layout.save(network), tmp_path / "x.pt", {"keras_dit": json.dumps(facts)})
        with pytest.raises(ValueError, match=f"cannot be made: no class {name} is registered"):
            Diffusion.from_preset(tmp_path / "x.pt", num_heads=2)
        Diffusion.from_preset(tmp_path / "x.pt", num_heads=2, **FLOW)


@pytest.mark.parametrize("note", ["{", "[]", "3", '{"network": 3}', '{"class_names": "abc"}'])
def test_a_damaged_note_is_an_error(note, tmp_path):
    pytorch.write(layout.save(trained().network), tmp_path / "x.pt", {"keras_dit": note})
    with pytest.raises(ValueError, match=r"x\.pt is corrupt: its note"):
        weights.load(tmp_path / "x.pt", num_heads=2)


def test_a_note_cannot_contradict_the_tensors(tmp_path):
    note = json.dumps({"network": {"input_shape": [8, 8, 1], "depth": 7}})
    pytorch.write(layout.save(trained().network), tmp_path / "x.pt", {"keras_dit": note})
    with pytest.raises(ValueError, match="pos_embed is"):
        weights.load(tmp_path / "x.pt", num_heads=2)


@register
@dataclass(frozen=True)
class HalfFlow(schedules.RectifiedFlow):
    """A schedule from outside the package, one of its fields of numpy's."""

    share: float = np.float32(0.5)


def test_a_schedule_of_ones_own_travels(tmp_path):
    weights.export(trained().network, tmp_path / "x.pt", **{**FLOW, "schedule": HalfFlow(2.0)})
    assert Diffusion.from_preset(tmp_path / "x.pt").schedule == HalfFlow(2.0)


def test_what_cannot_travel_is_said(tmp_path):
    class Odd(codecs.Codec):  # it is not registered as a dataclass of numbers: it could hold a net
        low, high = -1.0, 1.0

    with pytest.warns(UserWarning, match=r"Odd does not travel with weights: .* give codec="):
        weights.export(trained().network, tmp_path / "x.pt", **{**FLOW, "codec": Odd()})
    assert Diffusion.from_preset(tmp_path / "x.pt").schedule == FLOW["schedule"]


def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path):
    network = trained().network
    with pytest.raises(ValueError, match=r"class_names must be 3 names\. Received: 2"):
        weights.export(network, tmp_path / "x.pt", class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"travel with weights\. Received: solver="):
        weights.export(network, tmp_path / "x.pt", solver=None)
    assert not list(tmp_path.iterdir())


# diffusers


def scheduler(folder):
    return json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
@pytest.mark.parametrize(
    ("schedule", "prediction", "expected"),
    [
        (schedules.RectifiedFlow(3.0), predictions.FlowVelocity(), {"shift": 3.0}),
        (
            schedules.LinearBeta(500, 2e-4, 0.03),
            predictions.Noise(),
            {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.03},
        ),
        (
            schedules.ScaledLinearBeta(),
            predictions.V(),
            {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"},
        ),
        (
            schedules.CosineBeta(),
            predictions.CleanSample(),
            {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
        ),
    ],
)
def test_a_folder_of_diffusers_has_the_scheduler(schedule, prediction, expected, tmp_path):
    """And says the same without our own note, as when somebody else has saved it anew."""
    pytest.importorskip("safetensors")
    network = trained().network
    process = {"schedule": schedule, "prediction": prediction, "codec": codecs.Pixels()}
    weights.export(network, tmp_path / "x", "diffusers", **process)
    assert expected.items() <= scheduler(tmp_path / "x").items()
    tensors = weights.files.read(tmp_path / "x" / "diffusion_pytorch_model.safetensors")
    weights.files.write(tensors, tmp_path / "x" / "diffusion_pytorch_model.safetensors")
    again = Diffusion.from_preset(tmp_path / "x")
    assert (again.schedule, again.prediction) == (schedule, prediction)


@pytest.mark.filterwarnings("ignore:diffusers computes", "ignore:DiTPipeline")
def test_a_process_that_diffusers_does_not_have_is_said_and_comes_back(tmp_path):
    pytest.importorskip("safetensors")
    process = {"schedule": schedules.ReversedFlow(), "prediction": predictions.DataVelocity()}
    with pytest.warns(UserWarning, match="diffusers has no scheduler for ReversedFlow"):
        weights.export(trained().network, tmp_path / "x", "diffusers", **process)
    assert not (tmp_path / "x" / "scheduler").exists()
    assert Diffusion.from_preset(tmp_path / "x").schedule == schedules.ReversedFlow()


def test_the_class_that_a_pipeline_takes_for_none_is_warned_of(tmp_path):
    pytest.importorskip("safetensors")
    time = TimestepEmbedding(frequency_shift=1)
    network = DiTModel((4, 4, 4), 2, 8, 1, 2, num_classes=3, time=time)
    with pytest.warns(UserWarning, match="takes 1000 for the class of nothing; .* is 3"):
        weights.export(network, tmp_path, "diffusers")
    assert json.loads((tmp_path / "config.json").read_text())["out_channels"] == 4


@pytest.mark.filterwarnings("ignore:DiTPipeline")
def test_out_channels_of_null_are_read_and_written_as_a_number(tmp_path):
    pytest.importorskip("safetensors")
    time = TimestepEmbedding(frequency_shift=1)
    network = DiTModel((4, 4, 4), 2, 8, 1, 2, num_classes=3, time=time)
    weights.export(network, tmp_path, "diffusers")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "out_channels": None}))
    again = weights.load(tmp_path)
    assert again.config == network.config
    weights.export(again, tmp_path / "again", "diffusers")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["out_channels"] == 4


def test_the_names_of_a_pipeline_are_read(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "transformer").mkdir()
    for file in (FILES / "diffusers" / "transformer").iterdir():
        (tmp_path / "transformer" / file.name).write_bytes(file.read_bytes())
    labels = {"1": "goldfish", "0": "tench, Tinca tinca", "2": "shark"}
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": labels}))
    names = weights.open_source(tmp_path).class_names
    assert names == ("tench, Tinca tinca", "goldfish", "shark")


# What is said


def test_what_was_taken_from_a_checkpoint_is_said(capsys):
    source = weights.open_source(FILES / "train.pt")
    assert "of this checkpoint the average of the weights is taken ('ema')" in source.notes
    raw = weights.open_source(FILES / "train_without_ema.pt")
    assert any("the raw weights are taken ('model'): it holds no average" in n for n in raw.notes)


def test_the_command_says_what_it_takes_a_file_for(tmp_path, capsys):
    options = ["--num-heads", "2"]
    assert main(["convert", str(FILES / "legacy.pt"), str(tmp_path / "x.pt"), *options]) == 0
    assert "by its name taken for DiT's DDPM" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]) == 0
    assert "taken" not in capsys.readouterr().out  # what we wrote says it itself
    trained(ema=0.9).save(tmp_path / "average.keras")
    assert main(["convert", str(tmp_path / "average.keras"), str(tmp_path / "y.pt")]) == 0
    assert "of the average of the weights" in capsys.readouterr().out
    assert main(["convert", str(FILES / "train.pt"), str(tmp_path / "x.keras"), *options]) == 0
    assert "the average of the weights is taken" in capsys.readouterr().out


def test_positions_of_ones_own_are_kept_and_said(tmp_path):
    network = trained().network
    network.positions.assign(2.0 * ops.convert_to_numpy(network.positions))
    weights.export(network, tmp_path / "x.pt")
    for load in (weights.load, DiTModel.from_preset, Diffusion.from_preset):
        with pytest.warns(UserWarning, match=r"x\.pt has positions of its own") as caught:
            load(tmp_path / "x.pt")
        assert caught[0].filename == __file__  # the caller's line, however deep it was
    assert layout.OWN_POSITIONS in weights.open_source(tmp_path / "x.pt").remarks()
    assert not any("positions" in r for r in weights.open_source(FILES / "legacy.pt").remarks())


def test_adapters_are_merged_and_it_is_said(tmp_path):
    network = trained().network
    before = {k: v.read().copy() for k, v in layout.save(network).items()}
    layer = network.blocks[0].mlp_in
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    with pytest.warns(UserWarning, match=r"adapters \(LoRA\) are merged"):
        weights.export(network, tmp_path / "x.pt")
    again = {k: v.read() for k, v in weights.open_source(tmp_path / "x.pt").tensors.items()}
    changed = [name for name in before if not np.array_equal(again[name], before[name])]
    assert changed == ["blocks.0.mlp.fc1.weight"]
    np.testing.assert_array_equal(
        again["blocks.0.mlp.fc1.weight"].T, ops.convert_to_numpy(layer.kernel)
    )


def test_a_network_that_is_told_something_else_is_refused(tmp_path):
    size = {**SMALL, "num_classes": None}
    label = {"label": conditions.Label(3)}
    told = DiTModel((4, 4, 1), **size, conditions={**label, "pose": conditions.Vector(2)})
    with pytest.raises(ValueError, match=r"more than its class .* Received: \['pose'\]"):
        weights.export(told, tmp_path / "x.pt")
    weights.export(DiTModel((4, 4, 1), **size, conditions=label), tmp_path / "x.pt")
    assert weights.load(tmp_path / "x.pt").num_classes == 3


@pytest.mark.parametrize(
    "parts",
    [
        {"block": AdaLNBlock(2, norm=RMSNorm())},
        {"block": AdaLNBlock(2, mlp=MLP(activation="relu"))},
        {"block": AdaLNBlock(2, mlp=SwiGLU()), "final_norm": LayerNorm(1e-5)},
        {"block": AdaLNBlock(2, attention=SelfAttention(2, qk_norm=LayerNorm()))},
        {"block": AdaLNBlock(2, norm=LayerNorm(1e-5))},  # of both norms: nobody has that
        {"block": AdaLNBlock(4)},  # num_heads=2 would be exported
        {"time": TimestepEmbedding(frequency_size=64)},
    ],
)
def test_a_network_of_other_parts_is_refused(parts, tmp_path):
    with pytest.raises(ValueError, match="of other parts than DiT's cannot be exported"):
        weights.export(DiTModel((4, 4, 1), **SMALL, **parts), tmp_path / "x.pt")


def test_the_parts_of_lightningdit_travel(tmp_path):
    """Without rotary positions no tensor's shape says the number of heads."""
    network = DiTModel((4, 4, 1), **SMALL, block=AdaLNBlock(2, mlp=SwiGLU()))
    weights.export(network, tmp_path / "x.pt")
    again = weights.load(tmp_path / "x.pt")
    assert again.blocks[0].attention.num_heads == 2
    assert isinstance(again.blocks[0].mlp, SwiGLU)


def test_the_parts_of_diffusers_travel_to_every_format(tmp_path):
    time, block = TimestepEmbedding(frequency_shift=1), AdaLNBlock(2, norm=NORMS_OF_DIFFUSERS)
    network = DiTModel((4, 4, 1), **SMALL, time=time, block=block)
    weights.export(network, tmp_path / "x.pt")
    again = weights.load(tmp_path / "x.pt")
    assert (again.time.frequency_shift, again.blocks[0].mlp_norm.epsilon) == (1, 1e-5)
    assert again.blocks[0].attention_norm.epsilon == 1e-6


def test_a_quantized_network_is_refused(tmp_path):
    network = trained().network
    network.time.mlp_in.quantize("int8")
    with pytest.raises(ValueError, match="a quantized network cannot be exported"):
        weights.export(network, tmp_path / "x.pt")


def test_a_missing_library_is_named_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["convert", str(tmp_path / "missing.keras"), str(tmp_path / "x.safetensors")]) == 2
    assert "pip install safetensors" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "missing.keras"), str(tmp_path / "folder")]) == 2
    assert "pip install safetensors" in capsys.readouterr().err
    with pytest.raises(ImportError, match=r"pip install safetensors$"):
        weights.load(FILES / "diffusers")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install huggingface_hub$"):
        weights.load("hf://someone/something")


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_the_command_warns_in_one_line(value, tmp_path):
    network = trained().network
    network.positions.assign(np.full(network.positions.shape, value, "float32"))
    weights.export(network, tmp_path / "x.pt", **FLOW)
    done = subprocess.run(
        [sys.executable, "-m", "keras_dit", "convert", tmp_path / "x.pt", tmp_path / "x.keras"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    first, *others = done.stderr.splitlines()
    assert first.startswith("keras-dit: warning: ")
    assert first.endswith("holds NaN or infinite numbers in pos_embed")
    assert all(line.startswith("keras-dit: warning: ") for line in others)


def test_the_command_is_told_the_method_where_a_file_does_not_say_it(tmp_path, capsys):
    """Of a file without our note, the images are those of the model when the method is given."""
    model = trained(schedule=schedules.RectifiedFlow())
    model.save(tmp_path / "run.keras")
    pytorch.write(layout.save(model.network), tmp_path / "x.pt")
    out = str(tmp_path / "images.npy")
    images = {}
    for name, given in {"run.keras": [], "x.pt": ["--num-heads", "2", "--method", "flow"]}.items():
        options = ["--labels", "0,1,2", "--steps", "4", "--out", out, *given]
        assert main(["sample", str(tmp_path / name), *options]) == 0
        images[name] = np.load(out)
    np.testing.assert_allclose(images["x.pt"], images["run.keras"], atol=1e-5)
    assert "taken for" not in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run.keras"), "--method", "flow"]) == 2
    assert "leave out --method" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "x.pt"), "--method", "flo"])
    assert "must be one of flow, " in capsys.readouterr().err


@pytest.mark.parametrize("method", ["ddpm", "flow"])
def test_a_method_fits_networks_of_twice_the_channels(method, tmp_path):
    options = ["--num-heads", "2", "--method", method]
    assert main(["convert", str(FILES / "legacy.pt"), str(tmp_path / "x.keras"), *options]) == 0
    model = keras.saving.load_model(tmp_path / "x.keras")
    assert model.prediction.output_channels(4) == 8
    assert isinstance(model.schedule, type(processes.named(method).schedule))


# A format from outside the package


class Npz(weights.Format):
    """Arrays of numpy, under names of their own."""

    title = "a .npz file of nobody"
    suffixes = (".npz",)
    hub_patterns = ("*.npz",)

    def detect(self, path):
        return path.is_file() and zipfile.is_zipfile(path) and path.suffix == ".npz"

    def open(self, path):
        with np.load(path) as file:
            arrays = dict(file)
        config = json.loads(str(arrays.pop("config")))
        tensors = {k: Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}
        return weights.Source(str(path), {**config, "input_shape": (4, 4, 1)}, tensors)

    def export(self, network, path):
        arrays = {name: tensor.read() for name, tensor in layout.save(network).items()}
        np.savez(path, config=json.dumps({**network.config, "input_shape": None}), **arrays)


@pytest.fixture
def npz():
    weights.register("npz", Npz())
    yield
    del weights.FORMATS["npz"]


def test_a_format_from_outside_is_one_registration(npz, tmp_path, capsys):
    network = trained().network
    weights.export(network, tmp_path / "x.npz", "npz")
    for again in (weights.load(tmp_path / "x.npz"), DiTModel.from_preset(tmp_path / "x.npz")):
        assert again.config == network.config
        for one, other in zip(again.weights, network.weights, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))
    model = Diffusion.from_preset(tmp_path / "x.npz", **FLOW)
    model.save(tmp_path / "x.keras")
    with pytest.warns(UserWarning, match="npz keeps neither process nor class names"):
        assert main(["convert", str(tmp_path / "x.keras"), str(tmp_path / "y.npz")]) == 0
    assert weights.load(tmp_path / "y.npz").config == network.config


def test_every_list_of_formats_knows_it(npz, tmp_path, capsys, monkeypatch):
    assert "a .npz file of nobody" in weights.titles()
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert ".npz: a .npz file of nobody" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", "x.keras", str(tmp_path / "x.onnx")]) == 2
    assert ".pth or .npz, or be a folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="format must be one of npz, "):
        weights.export(trained().network, tmp_path / "x", "npy")
    hub = pytest.importorskip("huggingface_hub")
    asked = {}
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **k: asked.update(k) or tmp_path)
    with pytest.raises(FileNotFoundError):
        weights.load("hf://owner/name")
    assert "*.npz" in asked["allow_patterns"]


def test_what_is_no_format_is_refused_and_a_name_is_not_taken_twice(npz):
    with pytest.raises(ValueError, match="must be an object of a class of Format"):
        weights.register("json", json)
    with pytest.raises(ValueError, match="'npz' is taken"):
        weights.register("npz", Npz())
