"""Laws of keras_dit.weights on autoencoders: they give what diffusers gives, and go back."""

import json
import zipfile

import keras
import numpy as np
import pytest
import safetensors.numpy
from autoencoder_weights import GOLDENS, folder, images, said, state, write
from keras import ops

from keras_dit import backend, weights
from keras_dit.codecs import Autoencoder, AutoencoderTiny
from keras_dit.weights import files
from keras_dit.weights.autoencoders import layout

STORED = np.load(GOLDENS)
FAMILIES = sorted({name.partition("/")[0] for name in STORED.files})
KL = [family for family in FAMILIES if family != "tiny"]
CONVERTED = [family for family in KL if family != "attention_in_levels"]


def compvis(family, before=""):
    """{name: array} of a family in CompVis's layout."""
    names, arrays = said(family, "compvis"), state(family)
    flat = {names[name]: array for name, array in arrays.items()}
    return {
        before + name: a[:, :, None, None] if a.ndim == 2 and ".attn" in name else a
        for name, a in flat.items()
    }


def run(codec):
    """Mean, log variance and decoded images of the images and latents of the goldens."""
    factor, inputs = codec.network.factor, codec.network.in_channels
    pictures = images((2, 2 * factor, 3 * factor, inputs))
    latents = 2 * images((2, 2, 3, codec.network.latent_channels))
    mean, log_variance = np.split(codec.posteriors(pictures), 2, axis=-1)
    return {"mean": mean, "log_variance": log_variance, "decoded": decoded(codec, latents)}


def decoded(codec, latents):
    """Images of raw latents, not clipped."""
    values = backend.compute_values(codec.network, codec.network.weights)
    return ops.convert_to_numpy(codec._decoder(values, ops.convert_to_tensor(latents)))


def check(codec, family):
    given = run(codec)
    if f"{family}/log_variance" not in STORED:
        assert np.all(given["log_variance"] == -30)
    for name in ("mean", "log_variance", "decoded"):
        if f"{family}/{name}" in STORED:
            expected = STORED[f"{family}/{name}"]
            error = np.abs(given[name] - expected).max() / np.abs(expected).max()
            assert error < 1e-5, f"{name} differs by {error}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_what_diffusers_gives_and_goes_back(family, tmp_path):
    codec = Autoencoder.from_preset(folder(family, tmp_path / "theirs"))
    check(codec, family)
    weights.export(codec, tmp_path / "ours", format="diffusers")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    theirs = said(family, "config")
    assert {k: v for k, v in config.items() if theirs.get(k) != v} == {}
    left_out = {name for name in theirs if name not in config}
    assert left_out <= {"_diffusers_version", "sample_size", "latents_mean", "latents_std",
                        "latent_magnitude", "latent_shift", "block_out_channels"}  # fmt: skip
    back = files.read(tmp_path / "ours" / "diffusion_pytorch_model.safetensors")
    for name, array in state(family).items():
        np.testing.assert_array_equal(back.pop(name).read(), array)
    assert not back


def collected(path, **overrides):
    """{common name: array} of a file, without a network made of it."""
    source = weights.autoencoders.open_source(path)
    expected = layout.shapes(source.kind, {**source.config, **overrides})
    found = layout.collected(source.tensors, expected, source.names, source.path)
    return source, {name: stored.read() for name, stored in found.items()}


def whole(others, before="first_stage_model."):
    """A checkpoint of a whole latent diffusion model."""
    return {**compvis("stable_diffusion", before), **{k: np.ones(2, "float32") for k in others}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return collected(folder("stable_diffusion", tmp_path_factory.mktemp("plain")))[1]


@pytest.mark.parametrize(
    ("others", "scale", "shift"),
    [
        (["cond_stage_model.a", "model.diffusion_model.b", "logvar"], 0.18215, 0.0),
        (["conditioner.embedders.0.a"], 0.13025, 0.0),
        (["model.diffusion_model.joint_blocks.0.a"], 1.5305, 0.0609),
    ],
)
def test_a_whole_model_holds_the_autoencoder_and_tells_its_scale(
    others, scale, shift, plain, tmp_path
):
    path = write(whole(others), tmp_path / "whole.safetensors")
    source, found = collected(path, groups=4)
    assert (source.scale, source.shift) == (scale, shift)
    assert "by its other tensors" in source.notes[0]
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_checkpoint_of_training_an_autoencoder_is_read(plain, tmp_path):
    arrays = compvis("stable_diffusion") | {"loss.discriminator.a": np.ones(2, "float32")}
    path = write(arrays, tmp_path / "bare.pt")
    nested = tmp_path / "nested.ckpt"
    torch_file(arrays, nested)
    for file in (path, nested):
        source, found = collected(file, groups=4)
        assert (source.scale, source.shift) == (0.18215, 0.0)
        for name, array in plain.items():
            np.testing.assert_array_equal(found[name], array)


def torch_file(arrays, path):
    """{"state_dict": arrays} as PyTorch writes it, from what our own writer makes of the arrays."""
    write(arrays, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    inner = entries["archive/data.pkl"][2:-1]  # between protocol and STOP
    key = b"X\x0a\x00\x00\x00state_dict"
    entries["archive/data.pkl"] = b"\x80\x02}" + key + inner + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_names_of_before_2023_are_read(plain, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = state("stable_diffusion")
    for new, name in old.items():
        arrays = {k.replace(f".{new}.", f".{name}."): v for k, v in arrays.items()}
    assert not any("to_" in name for name in arrays)
    _, found = collected(folder("stable_diffusion", tmp_path, arrays=arrays))
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_of_diffusers_alone_is_read_with_and_without_its_configuration(plain, tmp_path):
    file = folder("stable_diffusion", tmp_path, {"scaling_factor": 0.5})
    file = file / "diffusion_pytorch_model.safetensors"
    source, _ = collected(file)
    assert (source.scale, source.config["groups"]) == (0.5, 4)
    (tmp_path / "config.json").unlink()
    source, found = collected(file, groups=4)
    assert (source.scale, "groups" in source.config) == (0.18215, False)
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)


def test_half_precision_is_read_as_float32(plain, tmp_path):
    path = tmp_path / "half.safetensors"
    safetensors.numpy.save_file({k: v.astype("float16") for k, v in state("tiny").items()}, path)
    folder("tiny", tmp_path, arrays={})
    path.rename(tmp_path / "diffusion_pytorch_model.safetensors")
    network = Autoencoder.from_preset(tmp_path).network
    assert isinstance(network, AutoencoderTiny)
    assert {w.dtype for w in network.weights} == {"float32"}


def test_statistics_of_each_channel_become_scale_and_shift_and_go_back(tmp_path):
    mean, std = [0.1, -0.2, 0.3, 0.4], [0.5, 2.0, 1.0, 4.0]
    said = {"latents_mean": mean, "latents_std": std, "scaling_factor": 1.0}
    source = weights.autoencoders.open_source(folder("without_attention", tmp_path / "a", said))
    assert source.shift == tuple(mean)
    np.testing.assert_allclose(source.scale, 1 / np.array(std), rtol=1e-12)
    weights.export(source.codec(), tmp_path / "b", format="diffusers")
    again = weights.autoencoders.open_source(tmp_path / "b")
    np.testing.assert_allclose(again.scale, source.scale, rtol=1e-12)
    np.testing.assert_allclose(again.shift, source.shift, rtol=1e-12)


def test_force_upcast_keeps_it_in_float32_under_mixed_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        upcast = Autoencoder.from_preset(folder("without_attention", tmp_path / "a")).network
        other = folder("without_attention", tmp_path / "b", {"force_upcast": False})
        not_upcast = Autoencoder.from_preset(other).network
    finally:
        keras.config.set_dtype_policy("float32")
    assert (upcast.compute_dtype, not_upcast.compute_dtype) == ("float32", "bfloat16")
    mean, _ = not_upcast.encode(images((1, 4, 4, 1)))
    assert keras.backend.standardize_dtype(mean.dtype) == "float32"
    expected = ops.convert_to_numpy(upcast.encode(images((1, 4, 4, 1)))[0])
    np.testing.assert_allclose(ops.convert_to_numpy(mean), expected, atol=0.05)


def test_a_keras_file_of_a_codec_or_its_network_is_read(tmp_path):
    codec = Autoencoder.from_preset(folder("without_attention", tmp_path), scale=(1, 2, 3, 4.0))
    codec.save(tmp_path / "codec.keras")
    again = Autoencoder.from_preset(tmp_path / "codec.keras", shift=0.5)
    assert (again.identity, again.scale, again.shift) == (codec.identity, codec.scale, 0.5)
    codec.network.save(tmp_path / "network.keras")
    with pytest.warns(UserWarning, match="does not say the scale of its latents"):
        again = Autoencoder.from_preset(tmp_path / "network.keras")
    assert (again.identity, again.scale) == (codec.identity, 1.0)


def test_an_autoencoder_in_the_hub_s_cache_is_read_without_a_network(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = (
        tmp_path / "models--someone--vae",
        "0123456789abcdef0123456789abcdef01234567",
    )
    theirs = folder("without_attention", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    found = Autoencoder.from_preset("hf://someone/vae")
    assert found.identity == Autoencoder.from_preset(theirs).identity
    with pytest.raises(FileNotFoundError, match="hf://someone/other is neither cached") as raised:
        Autoencoder.from_preset("hf://someone/other")
    assert len(str(raised.value).splitlines()) == 1


# What is broken


def lacking(arrays):
    del arrays["encoder.conv_in.bias"]


def more(arrays):
    arrays["encoder.extra"] = np.ones(2, "float32")


def reshaped(arrays):
    arrays["decoder.conv_in.weight"] = np.ones((16, 3, 3, 3), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking, "missing: encoder.conv_in.bias"),
        (more, "unexpected: encoder.extra"),
        (reshaped, r"decoder.conv_in.weight is \(16, 3, 3, 3\) instead of \(16, 4, 3, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
    arrays = state("without_attention")
    change(arrays)
    with pytest.raises(ValueError, match=message):
        Autoencoder.from_preset(folder("without_attention", tmp_path, arrays=arrays))


def test_numbers_that_are_none_are_warned_of(tmp_path):
    arrays = state("without_attention")
    arrays["encoder.conv_in.bias"][0] = np.nan
    with pytest.warns(UserWarning, match="NaN or infinite numbers in encoder.conv_in.bias"):
        Autoencoder.from_preset(folder("without_attention", tmp_path, arrays=arrays))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderDC"}, "holds a AutoencoderDC, not an AutoencoderKL or"),
        ({"block_out_channels": [8, "16"]}, "block_out_channels must be a list of int"),
        ({"block_out_channels": [10**12, 10**12 + 1], "norm_num_groups": 1}, "instead of"),
        ({"block_out_channels": [8] * 10**6}, "block_out_channels must be a list of int"),
        ({"layers_per_block": 10**9}, "not as many tensors as layers_per_block=1000000000"),
        ({"latent_channels": True}, "latent_channels must be a positive integer"),
        ({"norm_num_groups": 3}, "that can be built: channels must be integers, multiples"),
        ({"act_fn": "relu"}, "act_fn='relu' is not supported, but 'silu'"),
        ({"down_block_types": ["DownEncoderBlock2D", "Other"]}, "blocks must be DownEncoder"),
        ({"out_channels": 3}, "out_channels must be in_channels"),
        ({"scaling_factor": "large"}, "must be numbers"),
        ({"scaling_factor": 0.0}, "scale must not be 0"),
    ],
)
def test_configurations_that_make_no_autoencoder_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Autoencoder.from_preset(folder("without_attention", tmp_path, changes))


def test_other_files_are_refused_by_what_they_are(tmp_path):
    for name, content, message in (
        ("page.ckpt", b"<html>", "is a web page, not weights"),
        ("short.safetensors", b"\x10\0\0\0\0\0\0\0{", "truncated or corrupt"),
        ("broken.keras", b"PK", "is no .keras file, or a broken one"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Autoencoder.from_preset(tmp_path / name)
    other = write({"blocks.0.attn.qkv.weight": np.ones((6, 2), "float32")}, tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=r"not hold the tensors of an autoencoder, but blocks\.0"):
        Autoencoder.from_preset(other)
    vq = compvis("without_attention") | {"quantize.embedding.weight": np.ones((2, 4), "float32")}
    with pytest.raises(ValueError, match="VQ autoencoder, with a codebook"):
        Autoencoder.from_preset(write(vq, tmp_path / "vq.ckpt"))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        Autoencoder.from_preset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        Autoencoder.from_preset(write({}, tmp_path / "empty" / "a.pt").parent)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="holds a Sequential, not an autoencoder"):
        Autoencoder.from_preset(tmp_path / "dense.keras")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": None, "class_name": "Mine"}, "holds a Mine, which is not known here"),
        ({"module": 3}, "dense.keras is a broken .keras file: "),
    ],
)
def test_a_keras_file_that_cannot_be_made_is_named(change, message, tmp_path):
    path = tmp_path / "dense.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["config.json"] = json.dumps(json.loads(entries["config.json"]) | change).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=message) as raised:
        Autoencoder.from_preset(path)
    assert len(str(raised.value).splitlines()) == 1


def test_groups_that_no_file_says_are_asked_for(tmp_path):
    path = write(compvis("without_attention"), tmp_path / "ldm.safetensors")
    with pytest.raises(ValueError, match="give groups="):
        Autoencoder.from_preset(path)
    with pytest.raises(ValueError, match="holds an autoencoder with latent_channels=4"):
        Autoencoder.from_preset(path, groups=4, latent_channels=8)


@pytest.mark.parametrize("family", CONVERTED)
def test_a_file_of_compvis_holds_the_same_network(family, tmp_path):
    path = write(compvis(family), tmp_path / "ldm.safetensors")
    scale = None if said(family, "config")["latent_channels"] == 4 else 1.0
    source = weights.autoencoders.open_source(path)
    ours = source.codec(scale, groups=4)
    theirs = Autoencoder.from_preset(folder(family, tmp_path))
    assert ours.identity == theirs.identity
    weights.export(ours, tmp_path / "again.safetensors", format="compvis")
    back = files.read(tmp_path / "again.safetensors")
    for name, array in compvis(family).items():
        np.testing.assert_array_equal(back.pop(name).read(), array)
    assert not back
