"""Laws of keras_dit.weights: published files load to the numbers that the original gives."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import codecs, predictions, schedules, weights
from keras_dit.weights import facebook_dit, files
from keras_dit.weights.files import pytorch
from keras_dit.weights.files.stored import Stored

GOLDENS = pathlib.Path(__file__).parent / "goldens"
FILES = GOLDENS / "weights"
HEADS = {"a": 3, "b": 2, "c": 2}


def golden(name):
    with np.load(GOLDENS / name) as arrays:
        return dict(arrays)


def state(name):
    """The state dict of a network of facebookresearch/DiT."""
    return {k: v for k, v in golden(f"facebook_dit_{name}.npz").items() if "/" not in k}


def write(arrays, path):
    """A .pt file, for tests of its content alone: files written by PyTorch are in goldens/."""
    pytorch.write({k: Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}, path)
    return path


def write_safetensors(arrays, path):
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    return path


def run(network, x, t, y):
    """The output, NCHW as the originals have it."""
    compiled = keras_dit.backend.compile_inference(lambda *inputs: network(*inputs))
    output = compiled(*map(ops.convert_to_tensor, (np.transpose(x, (0, 2, 3, 1)), t, y)))
    return np.transpose(ops.convert_to_numpy(output), (0, 3, 1, 2))


def read(path):
    """{name: array} of a file or folder, under the names of facebookresearch/DiT."""
    return {name: tensor.read() for name, tensor in weights.open_source(path).tensors.items()}


def held(network):
    """{name: array} of a network."""
    return {name: tensor.read() for name, tensor in weights.layout.save(network).items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("name", HEADS)
def test_outputs_are_the_originals(name, tmp_path):
    """Where t is large float32 t * frequency is the floor of any two programs: 4e-5 in a."""
    arrays = golden(f"facebook_dit_{name}.npz")
    network = weights.load(write(state(name), tmp_path / "dit.pt"), num_heads=HEADS[name])
    for key in ("patch_size", "hidden_size", "depth", "num_heads", "num_classes"):
        assert network.config[key] == arrays[f"config/{key}"]
    assert network.config["learned_variance"] == arrays["config/learn_sigma"]
    side, channels = int(arrays["config/input_size"]), int(arrays["config/in_channels"])
    assert network.image_shape == (side, side, channels)
    assert_equal(held(network), state(name))
    output = run(network, arrays["run/x"], arrays["run/t"], arrays["run/y"])
    early = arrays["run/t"] < 2
    np.testing.assert_allclose(output, arrays["run/output"], rtol=0, atol=6e-5)
    np.testing.assert_allclose(output[early], arrays["run/output"][early], rtol=0, atol=5e-6)


@pytest.mark.parametrize("file", ["legacy.pt", "train.pt"])
def test_every_container_of_pytorch_loads_exactly(file):
    """train.pt is the checkpoint of a train.py: its average is taken, not its weights."""
    assert_equal(read(FILES / file), state("c"))


def test_half_precision_and_wrapped_names_load():
    """train_without_ema.pt is in bfloat16, negated, and its names are prefixed twice."""
    half = {name: array.astype("float16") for name, array in state("c").items()}
    assert_equal(read(FILES / "release_half.pt"), half)
    network = weights.load(FILES / "train_without_ema.pt", num_heads=2)
    rounded = {k: -v.astype("bfloat16").astype("float32") for k, v in state("c").items()}
    assert_equal(held(network), rounded)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_load_exactly(dtype, tmp_path):
    pytest.importorskip("safetensors")
    arrays = {k: v.astype(dtype) for k, v in state("c").items()}
    assert_equal(read(write_safetensors(arrays, tmp_path / "c.safetensors")), arrays)


def test_the_format_is_found_by_content_not_by_suffix(tmp_path):
    for file in ("legacy.pt", "train.pt"):
        renamed = tmp_path / "weights.safetensors"
        renamed.write_bytes((FILES / file).read_bytes())
        assert_equal(read(renamed), state("c"))


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK"])
def test_a_safetensors_file_may_start_like_the_others(start, tmp_path):
    """It opens with its header's length, whose bytes can be those of a pickle or a zip file."""
    save = pytest.importorskip("safetensors.numpy").save
    wanted = int.from_bytes(start, "little")
    arrays = {"x": np.ones(2, "float32")}
    used = int.from_bytes(save(arrays, metadata={"a": ""})[:8], "little")
    data = save(arrays, metadata={"a": "b" * (wanted - used)})
    assert data.startswith(start)
    (tmp_path / "x.safetensors").write_bytes(data)
    assert files.read(tmp_path / "x.safetensors").keys() == {"x"}


def test_a_tensor_may_be_any_view_of_its_storage(tmp_path):
    torch = pytest.importorskip("torch")
    big = torch.arange(24.0).reshape(4, 6)
    torch.save({"turned": big.T, "cut": big[1:3, 2::2], "none": big[:0]}, tmp_path / "views.pt")
    tensors = pytorch.read_zip(tmp_path / "views.pt")
    for name, expected in (("turned", big.T), ("cut", big[1:3, 2::2]), ("none", big[:0])):
        np.testing.assert_array_equal(tensors[name].read(), expected.numpy())
        assert tensors[name].shape == expected.shape


def test_what_files_leave_open_may_be_chosen(tmp_path):
    path = write(state("c"), tmp_path / "c.pt")
    network = weights.load(
        path,
        num_heads=2,
        dtype="mixed_bfloat16",
        label_dropout=0.2,
        remat=True,
        input_shape=(2, 8, 4),  # the same number of tokens
    )
    assert network.dtype_policy.name == "mixed_bfloat16"
    assert (network.config["condition_dropout"], network.remat) == (0.2, True)
    assert network.image_shape == (2, 8, 4)


def test_heads_are_known_of_published_sizes_only(tmp_path):
    shapes = weights.layout.shapes({**SMALL, "hidden_size": 384, "depth": 12, "num_classes": 2})
    tensors = {k: Stored(s, lambda s=s: np.zeros(s, "float32")) for k, s in shapes.items()}
    pytorch.write(tensors, tmp_path / "s.pt")
    assert weights.open_source(tmp_path / "s.pt").config["num_heads"] == 6
    with pytest.raises(ValueError, match=r"does not say how many heads .*: give num_heads="):
        weights.load(write(state("c"), tmp_path / "c.pt"))


SMALL = {"input_shape": (4, 4, 4), "patch_size": 2, "hidden_size": 8, "depth": 1, "num_classes": 2}


def test_a_network_trained_without_label_dropout_gets_an_empty_null_row(tmp_path):
    path = write(state("c"), tmp_path / "c.pt")
    network = weights.load(path, num_heads=2, num_classes=3)
    table = ops.convert_to_numpy(network.label.table)
    np.testing.assert_array_equal(table[:3], state("c")["y_embedder.embedding_table.weight"])
    np.testing.assert_array_equal(table[3], np.zeros(8))
    assert network.config["condition_dropout"] == 0.0


# diffusers


def test_a_folder_of_diffusers_gives_its_numbers():
    arrays = golden("weights/diffusers.npz")
    for folder in (FILES / "diffusers", FILES / "diffusers" / "transformer"):
        network = weights.load(folder)
        output = run(network, arrays["x"], arrays["t"], arrays["y"])
        np.testing.assert_allclose(output, arrays["output"], rtol=0, atol=2e-5)
    assert network.time.frequency_shift == 1
    assert network.blocks[0].mlp_norm.epsilon == 1e-5


def diffusers_folder(tmp_path, arrays=None, file="diffusion_pytorch_model.bin", **changes):
    """A copy of the golden folder's transformer with other tensors and settings."""
    import json

    config = json.loads((FILES / "diffusers/transformer/config.json").read_text())
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    if arrays is not None:
        write(arrays, tmp_path / file)
    return tmp_path


def diffusers_state():
    from safetensors.numpy import load_file

    return load_file(FILES / "diffusers/transformer/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_and_bin_files_are_the_same_network(suffix, tmp_path):
    import json

    arrays, expected = diffusers_state(), read(FILES / "diffusers")
    assert_equal(read(diffusers_folder(tmp_path / "bin", arrays)), expected)
    folder = diffusers_folder(tmp_path / "shards")
    writer = write_safetensors if suffix == ".safetensors" else write
    names = sorted(arrays)
    places = {}
    for i, part in enumerate((names[::2], names[1::2])):
        shard = f"diffusion_pytorch_model-{i + 1:05d}-of-00002{suffix}"
        writer({name: arrays[name] for name in part}, folder / shard)
        places |= dict.fromkeys(part, shard)
    index = folder / f"diffusion_pytorch_model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_equal(read(folder), expected)


def test_the_old_class_name_of_diffusers_is_known(tmp_path):
    folder = diffusers_folder(tmp_path, diffusers_state(), _class_name="Transformer2DModel")
    assert_equal(read(folder), read(FILES / "diffusers"))


# Presets, the hub, and the process that belongs to weights


def test_presets_take_paths(tmp_path):
    path = write(state("c"), tmp_path / "c.pt")
    assert_equal(held(keras_dit.DiTModel.from_preset(str(path), num_heads=2)), state("c"))
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        keras_dit.DiTModel.from_preset(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match="preset must be one of dit_s_2"):
        keras_dit.DiTModel.from_preset("dit_s_22", input_shape=(8, 8, 1))


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """A cache with one repository, as huggingface_hub lays it out, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--small-dit"
    snapshot = repository / "snapshots" / commit
    (snapshot / "transformer").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        data = (FILES / "diffusers" / "transformer" / file).read_bytes()
        (snapshot / "transformer" / file).write_bytes(data)
    (snapshot / "legacy.pt").write_bytes((FILES / "legacy.pt").read_bytes())


def test_the_hub_s_cache_is_honoured(offline_hub):
    network = keras_dit.DiTModel.from_preset("hf://someone/small-dit")
    assert_equal(held(network), read(FILES / "diffusers"))
    assert_equal(read("hf://someone/small-dit/legacy.pt"), state("c"))


@pytest.mark.parametrize("name", ["hf://someone/other", "hf://someone/small-dit/absent.pt"])
def test_what_the_cache_lacks_is_named(name, offline_hub):
    with pytest.raises(FileNotFoundError, match=f"{name} is neither cached nor to be had"):
        weights.load(name)


@pytest.mark.parametrize("name", ["hf://someone", "hf://../etc/passwd/../x", "hf://", "hf://a//b"])
def test_what_is_no_name_on_the_hub_is_refused(name):
    pytest.importorskip("huggingface_hub")
    with pytest.raises((ValueError, FileNotFoundError), match=r"hf://owner/name|neither cached"):
        weights.load(name)


def test_a_dit_comes_with_its_process(tmp_path):
    path = write(state("c"), tmp_path / "DiT-XL-2-256x256.pt")
    diffusion = keras_dit.Diffusion.from_preset(path, num_heads=2)
    assert diffusion.schedule == schedules.LinearBeta()
    assert diffusion.prediction == predictions.LearnedVariance(predictions.Noise())
    assert diffusion.codec == codecs.Latents(0.18215)
    assert_equal(held(diffusion.network), state("c"))
    plain = keras_dit.Diffusion.from_preset(
        write(state("b"), tmp_path / "b.pt"), num_heads=2, ema=None
    )
    assert plain.prediction == predictions.Noise()
    assert plain.codec == codecs.Pixels()
    assert plain.average is None


def test_a_thousand_classes_of_latents_have_the_names_of_imagenet(tmp_path):
    network = keras_dit.DiTModel((4, 4, 4), 2, 4, 1, 1, num_classes=1000)
    weights.layout.variables(network)["x_embedder.proj.bias"].assign(np.arange(4.0))
    bare = {name: stored.read() for name, stored in weights.layout.save(network).items()}
    names = weights.open_source(write(bare, tmp_path / "DiT-XL-2-256x256.pt")).class_names
    assert (names[207], names[360], names[979]) == ("golden retriever", "otter", "valley")
    assert weights.open_source(write(state("c"), tmp_path / "c.pt")).class_names is None


def test_a_folder_of_diffusers_comes_with_its_scheduler(tmp_path):
    import json

    (tmp_path / "transformer").mkdir()
    diffusers_folder(tmp_path / "transformer", diffusers_state())
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "vae").mkdir()
    config = json.loads((FILES / "diffusers/scheduler/scheduler_config.json").read_text())
    config |= {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config |= {"prediction_type": "v_prediction", "num_train_timesteps": 500}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    (tmp_path / "vae" / "config.json").write_text('{"scaling_factor": 0.13025}')
    diffusion = keras_dit.Diffusion.from_preset(tmp_path)
    assert diffusion.schedule == schedules.ScaledLinearBeta(500, 0.00085, 0.012)
    assert diffusion.prediction == predictions.LearnedVariance(predictions.V())
    assert diffusion.codec == codecs.Latents(0.13025)
    config["rescale_betas_zero_snr"] = True
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=True is not supported"):
        keras_dit.Diffusion.from_preset(tmp_path)


def test_a_sit_comes_with_its_reversed_time(tmp_path):
    """What SiT gives at its time is what the denoiser makes x0 of at ours, 1 minus it."""
    arrays = golden("weights/sit.npz")
    diffusion = keras_dit.Diffusion.from_preset(
        write(state("c"), tmp_path / "SiT-XL-2-256.pt"), num_heads=2
    )
    denoiser = keras_dit.Denoiser(diffusion.network, diffusion.schedule, diffusion.prediction)
    x, t = np.transpose(arrays["x"], (0, 2, 3, 1)), 1 - arrays["t"]
    x0 = denoiser(ops.convert_to_tensor(x), diffusion.schedule(t), arrays["y"]).x0
    x0 = ops.convert_to_numpy(x0)
    velocity = np.transpose(arrays["output"], (0, 2, 3, 1))  # x0 - noise
    expected = x + t[:, None, None, None] * velocity  # x_t = (1 - t) x0 + t noise
    np.testing.assert_allclose(x0, expected, rtol=0, atol=1e-5)
    assert diffusion.codec == codecs.Latents(0.18215)
    # The other half of its channels means nothing.
    assert diffusion.network.config["output_channels"] == 8
    assert not diffusion.network.learned_variance


def test_train_py_says_whether_it_was_dit_s_or_sit_s(tmp_path):
    """The name of the file counts only where nothing inside says it."""
    misnamed = tmp_path / "SiT.pt"
    misnamed.write_bytes((FILES / "train.pt").read_bytes())
    diffusion = keras_dit.Diffusion.from_preset(misnamed, num_heads=2)
    assert diffusion.schedule == schedules.LinearBeta()


@pytest.mark.parametrize("other", [{"path_type": "GVP"}, {"prediction": "score"}])
def test_a_sit_of_another_process_is_not_taken_for_the_published_one(other):
    network = keras_dit.DiTModel((4, 4, 4), 2, 8, 1, 2, num_classes=2)
    settings = {"model": "SiT-XL/2", "path_type": "Linear", "prediction": "velocity"}
    process = facebook_dit._process(settings, {}, pathlib.Path("sit.pt"))[0](network)
    assert process["process"].schedule == schedules.ReversedFlow()
    ((name, value),) = other.items()
    with pytest.raises(ValueError, match=f"sit.pt was trained with {name}={value}"):
        facebook_dit._process(settings | other, {}, pathlib.Path("sit.pt"))[0](network)


def test_parts_of_the_process_may_be_given(tmp_path):
    path = write(state("c"), tmp_path / "unknown.pt")
    given = {
        "schedule": schedules.ReversedFlow(),
        "prediction": predictions.HalfUnused(predictions.DataVelocity()),
        "codec": codecs.Pixels(),
    }
    diffusion = keras_dit.Diffusion.from_preset(path, num_heads=2, **given)
    for name, part in given.items():
        assert getattr(diffusion, name) == part


@pytest.mark.parametrize("name", ["DiT.pt", "SiT.pt"])
def test_loaded_weights_generate_and_survive_saving(name, tmp_path):
    diffusion = keras_dit.Diffusion.from_preset(write(state("c"), tmp_path / name), num_heads=2)
    pictures = diffusion.generate(labels=[0, None], steps=3)
    assert pictures.shape == (2, 4, 4, 4)
    diffusion.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.generate(labels=[0, None], steps=3), pictures)


@pytest.mark.parametrize("name", "ab")
def test_gradients_are_the_originals(name, tmp_path):
    """Of sum(output * cotangent), by each backend's own differentiation, through fit's path."""
    arrays = golden(f"facebook_dit_{name}.npz")
    network = weights.load(write(state(name), tmp_path / "dit.pt"), num_heads=HEADS[name])
    found = gradients(network, arrays)
    variables = weights.layout.variables(network)
    for key in (k.removeprefix("grad/") for k in arrays if k.startswith("grad/") and k != "grad/x"):
        expected = weights.layout.to_keras(key, arrays[f"grad/{key}"])
        index = [v is variables[key] for v in network.trainable_variables].index(True)
        difference = np.abs(found[index] - expected).max()
        assert difference < 5e-5 * np.abs(expected).max(), key


def gradients(network, arrays):
    """One step of gradient descent at rate 1 on sum(output * cotangent), undone: its gradients."""
    cotangent = np.transpose(arrays["run/cotangent"], (0, 2, 3, 1))
    x = np.transpose(arrays["run/x"], (0, 2, 3, 1))

    class Weighed(keras.Model):
        def __init__(self):
            super().__init__(autocast=False)
            self.network = network
            self.build()

        def build(self, *_):
            pass

        def call(self, inputs):
            return inputs

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum(
                network(x["x"], x["t"], x["y"], training=False)
                * ops.convert_to_tensor(x["cotangent"])
            )

    before = [ops.convert_to_numpy(v) * 1.0 for v in network.trainable_variables]
    model = Weighed()
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.train_on_batch(
        {"x": x, "t": arrays["run/t"], "y": arrays["run/y"], "cotangent": cotangent}
    )
    after = [ops.convert_to_numpy(v) for v in network.trainable_variables]
    return [b - a for b, a in zip(before, after, strict=True)]
