"""Laws of keras_dit.weights on broken and hostile files: a clear error, and nothing is run."""

import io
import json
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dit import DiTModel, weights
from keras_dit.weights.files import pickles, pytorch
from keras_dit.weights.files.stored import Stored

FILES = pathlib.Path(__file__).parent / "goldens" / "weights"
SMALL = {
    "input_shape": (4, 4, 4),
    "patch_size": 2,
    "hidden_size": 8,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 2,
    "learned_variance": True,
}


def state(**changes):
    """A state dict of ones, of a small DiT."""
    return {k: np.ones(s, "float32") for k, s in weights.layout.shapes(SMALL | changes).items()}


def write(arrays, path):
    pytorch.write({k: Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}, path)
    return path


def load(path, **overrides):
    return weights.load(path, **{"num_heads": 2} | overrides)


class Payload:
    """Runs a command when it is unpickled in earnest."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return pathlib.Path.touch, (self.file,)


def zipped(pickled, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


def legacy(pickled, path):
    head = [pickle.dumps(x, 2) for x in (pytorch.MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + pickled + pickle.dumps([], 2))
    return path


# Hostile


@pytest.mark.parametrize("container", [zipped, legacy])
@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_is_refused_and_not_run(container, protocol, tmp_path):
    trap = tmp_path / "trap"
    path = container(pickle.dumps({"model": Payload(trap)}, protocol), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"refused: it (asks for|holds the pickle instruction)"):
        load(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap), protocol))  # the payload does run where it can
    assert trap.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "builtins getattr", "torch._utils _rebuild_tensor",
     "collections OrderedDict.__init__", "argparse Namespace.__init__", "numpy load"],
)  # fmt: skip
def test_every_other_name_is_refused(name, tmp_path):
    module, attribute = name.split()
    path = zipped(f"c{module}\n{attribute}\n.".encode(), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=f"refused: it asks for {module}.{attribute}, which no"):
        load(path)


@pytest.mark.parametrize("code", [b"\x82\x01.", b"(i__main__\nx\n.", b"N0.", b"(S'x'\no."])
def test_every_other_instruction_is_refused(code, tmp_path):
    with pytest.raises(ValueError, match="refused: it holds the pickle instruction"):
        load(zipped(code, tmp_path / "evil.pt"))


def test_calling_a_storage_type_is_refused(tmp_path):
    path = zipped(b"ctorch\nFloatStorage\n)R.", tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="refused: it calls FloatStorage"):
        load(path)


def test_what_pytorch_lightning_left_in_a_checkpoint_is_read_past(tmp_path):
    place = "pytorch_lightning.callbacks.model_checkpoint"
    left = f"(c{place}\nModelCheckpoint\nI7\n".encode().replace(b"I7\n", b"K\x07")
    found = pytorch.read_zip(zipped(b"}" + left + b"u.", tmp_path / "left.ckpt"))
    assert found == {pickles.Name(f"{place}.ModelCheckpoint"): 7}
    path = zipped(f"c{place}\nModelCheckpoint\n)R.".encode(), tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"refused: it calls pytorch_lightning.*makes no tensor"):
        load(path)


def tensor_pickle(offset=0, shape=(2,), strides=(1,), length=2, key="0"):
    """A state dict of one tensor whose numbers may lie."""

    def numbers(values):
        return pickles._tuple(*map(pickles._number, values))

    storage = pickles._tuple(
        pickles._text("storage"), b"ctorch\nFloatStorage\n", pickles._text(key),
        pickles._text("cpu"), pickles._number(length),
    )  # fmt: skip
    arguments = pickles._tuple(
        storage + b"Q", pickles._number(offset), numbers(shape), numbers(strides), b"\x89",
        pickles._EMPTY_DICT,
    )  # fmt: skip
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    return b"\x80\x02}" + pickles._text("w") + rebuild + b"s."


@pytest.mark.parametrize(
    "lie",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3,)},
        {"shape": (1 << 30,), "strides": (0,)},
        {"strides": (2,)},
        {"strides": (-1,)},
        {"shape": (2, 2)},
        {"length": 1 << 30},
        {"length": 3},
        {"key": "../../etc/passwd"},
    ],
)
def test_a_tensor_cannot_reach_beyond_its_storage(lie, tmp_path):
    def make(**lie):
        path = zipped(tensor_pickle(**lie), tmp_path / "lie.pt")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/data/0", struct.pack("<2f", 1.0, 2.0))
        return path

    np.testing.assert_array_equal(pytorch.read_zip(make())["w"].read(), [1.0, 2.0])
    with pytest.raises(ValueError, match=r"lie.pt is truncated or corrupt"):
        pytorch.read_zip(make(**lie))


def test_a_small_file_cannot_become_an_endless_tree(tmp_path):
    layers = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(100))
    with pytest.raises(ValueError, match="holds no weights but a list"):
        load(zipped(b"\x80\x02" + layers + b".", tmp_path / "bomb.pt"))


def test_a_list_that_holds_itself_is_refused(tmp_path):
    with pytest.raises(ValueError, match="truncated or corrupt"):
        load(zipped(b"\x80\x02]q\x00h\x00a.", tmp_path / "loop.pt"))


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b", "..", "c:\\x", "", 3])
def test_an_index_cannot_name_files_elsewhere(shard, tmp_path):
    config = (FILES / "diffusers/transformer/config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out_1.weight": shard}}))
    with pytest.raises(ValueError, match="refused: it names a file outside of its folder"):
        weights.load(tmp_path)


def zip_content():
    return (FILES / "release_half.pt").read_bytes()


def legacy_content():
    return (FILES / "legacy.pt").read_bytes()


def read_everything(data, path):
    path.write_bytes(data)
    source = weights.open_source(path)
    return {name: tensor.read() for name, tensor in source.tensors.items()}


@pytest.mark.parametrize("content", [zip_content, legacy_content])
def test_damage_anywhere_is_a_value_error_or_harmless(content, tmp_path):
    """Of the zip container what loads is what was saved: it has checksums. The other has none."""
    good = content()
    expected = read_everything(good, tmp_path / "good.pt")

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.integers(0, len(good) - 1), st.integers(1, 255))
    def flip(place, mask):
        data = bytearray(good)
        data[place] ^= mask
        try:
            found = read_everything(bytes(data), tmp_path / "bad.pt")
        except ValueError:
            return
        if content is zip_content:
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name])

    flip()


def test_damage_to_the_zip_s_list_of_entries_is_a_value_error_or_harmless(tmp_path):
    """Such as a bit that says that an entry is encrypted, or compressed as nobody can."""
    good = zip_content()
    expected = read_everything(good, tmp_path / "good.pt")
    start = zipfile.ZipFile(io.BytesIO(good)).start_dir
    for place in range(start, start + 46):  # the first entry's, and of each byte one bit
        for bit in (0, 3, 5, 6):
            data = bytearray(good)
            data[place] ^= 1 << bit
            try:
                found = read_everything(bytes(data), tmp_path / "bad.pt")
            except ValueError:
                continue
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name])


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(
    [b"\x80\x02", b"(", b")", b"]", b"}", b".", b"t", b"R", b"b", b"s", b"u", b"a", b"e", b"Q",
     b"h\x00", b"q\x00", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\xff", b"K\x01", b"N",
     b"X\x01\0\0\0a",
     b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
     b"cargparse\nNamespace\n", b"ctorch\nFloatStorage\n", b"\x85", b"\x86", b"\x87", b"\x81"]
), max_size=25).map(b"".join))  # fmt: skip
def test_any_bytes_as_a_pickle_give_a_value_error_or_plain_values(code):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", code)
    try:
        value = pytorch.read_zip(file)
    except ValueError:
        return
    assert isinstance(value, (dict, list, str, int, float, bool, type(None), pickles.Name, Stored))


# Broken


def test_a_truncated_file_says_so(tmp_path):
    cases = [(zip_content(), "zip"), (legacy_content(), "legacy")]
    for data, name in cases:
        for part in (0.1, 0.5, 0.99):
            path = tmp_path / f"{name}.pt"
            path.write_bytes(data[: int(part * len(data))])
            with pytest.raises(ValueError, match=f"{name}.pt is truncated or corrupt"):
                load(path)


def test_a_flipped_bit_in_a_zip_file_is_found(tmp_path):
    data = bytearray(zip_content())
    place = zipfile.ZipFile(io.BytesIO(data)).getinfo("release_half/data/5").header_offset + 200
    data[place] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped.pt is corrupt: .*data/5: Bad CRC-32"):
        load(tmp_path / "flipped.pt")


def test_a_truncated_safetensors_file_says_so(tmp_path):
    save = pytest.importorskip("safetensors.numpy").save
    data = save(state())
    for end in (len(data) - 1, len(data) // 2, 100):
        (tmp_path / "cut.safetensors").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut.safetensors is truncated or corrupt"):
            load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>404 not found</html>", "is a web page, not weights: its download"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (b"", "is empty"),
        (b"hello", "is neither a PyTorch file nor a .safetensors file"),
        (b"\x80\x02}.", "is truncated or corrupt: it is a pickle, but not of PyTorch"),
        (zip_content()[:4], "is truncated or corrupt"),
    ],
)
def test_what_is_no_weights_is_named(content, message, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=f"model.pt {message}"):
        load(tmp_path / "model.pt")


def test_a_keras_file_is_no_foreign_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"keras\.saving\.load_model"):
        load(tmp_path / "model.keras")


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    arrays = state()
    arrays["blocks.0.attn.extra"] = arrays.pop("blocks.0.attn.proj.bias")
    arrays["a"] = arrays["b"] = arrays["c"] = np.ones(1, "float32")
    expected = (
        r"does not hold the tensors of a DiT: missing: blocks.0.attn.proj.bias; "
        r"unexpected: blocks.0.attn.extra, a, b and 1 more"
    )
    with pytest.raises(ValueError, match=expected):
        load(write(arrays, tmp_path / "dit.pt"))
    for name in ("pos_embed", "y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight"):
        arrays = state()
        del arrays[name]
        with pytest.raises(ValueError, match=f"missing: {name}"):
            load(write(arrays, tmp_path / "dit.pt"))


def test_wrong_shapes_are_named(tmp_path):
    arrays = state() | {"blocks.0.attn.qkv.weight": np.ones((24, 9), "float32")}
    expected = r"blocks.0.attn.qkv.weight is \(24, 9\) instead of \(24, 8\)"
    with pytest.raises(ValueError, match=expected):
        load(write(arrays, tmp_path / "dit.pt"))
    arrays = state() | {"x_embedder.proj.weight": np.ones(8, "float32")}
    with pytest.raises(ValueError, match="does not hold the tensors of a DiT: wrong shapes"):
        load(write(arrays, tmp_path / "dit.pt"))
    arrays = state() | {"final_layer.linear.weight": np.ones((12, 8), "float32")}
    with pytest.raises(ValueError, match=r"final_layer.linear.weight is"):
        load(write(arrays, tmp_path / "dit.pt"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_numbers_are_warned_of_by_name(value, tmp_path):
    arrays = state()
    arrays["blocks.0.mlp.fc2.bias"][3] = value
    path = write(arrays, tmp_path / "dit.pt")
    with pytest.warns(UserWarning, match="holds NaN or infinite numbers in blocks.0.mlp.fc2.bias"):
        load(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": 3}, "must be multiples of patch_size. Received: patch_size=3"),
        (
            {"depth": 2, "hidden_size": 16},
            "with depth=1, hidden_size=8. Others may be num_classes, .*Received: depth=2, hidden",
        ),
        ({"num_classes": 0}, "num_classes must be None or at least 1. Received: num_classes=0"),
        ({"input_shape": (8, 8)}, r"must be \(height, width, channels\)"),
        ({"num_heads": 3}, "hidden_size must be a multiple of num_heads"),
        ({"heads": 2}, "heads=None. Others may be .*Received: heads=2"),
    ],
)
def test_arguments_that_contradict_the_file_are_refused(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(write(state(), tmp_path / "dit.pt"), **overrides)


def test_a_network_with_some_parts_of_lightningdit_is_refused_by_name(tmp_path):
    arrays = state() | {"blocks.0.attn.q_norm.weight": np.ones(4, "float32")}
    with pytest.raises(ValueError, match=r"not hold .* missing: blocks.0.attn.q_norm.bias"):
        load(write(arrays, tmp_path / "dit.pt"))


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("projectors.0.0.weight", "REPA's projectors"),
        ("omega_embedder.mlp.0.weight", "an embedder of the guidance's scale"),
        ("t_embedder.cond_proj.weight", "an embedder of the guidance's scale"),
        ("base_model.model.blocks.0.attn.qkv.lora_A.default.weight", "PEFT: adapt.load_lora"),
    ],
)
def test_what_other_programs_add_is_refused_by_name(name, whose, tmp_path):
    arrays = state() | {name: np.ones((4, 4), "float32")}
    with pytest.raises(ValueError, match=f"{whose}.*not supported: {name}"):
        load(write(arrays, tmp_path / "dit.pt"))


def test_what_is_no_state_dict_is_refused(tmp_path):
    path = zipped(pickle.dumps({"epoch": 3, "loss": 0.1}, 2), tmp_path / "dit.pt")
    with pytest.raises(ValueError, match=r"holds no state dict, but epoch, loss"):
        load(path)
    with pytest.raises(ValueError, match=r"does not hold the tensors of a DiT, but conv1.weight"):
        load(write({"conv1.weight": np.ones(3, "float32")}, tmp_path / "resnet.pt"))
    path = write({"transformer_blocks.0.x": np.ones(3, "float32")}, tmp_path / "alone.pt")
    with pytest.raises(ValueError, match="names of diffusers: give its folder"):
        load(path)


# Folders of diffusers


def folder(tmp_path, change=lambda arrays: None, **settings):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    original = FILES / "diffusers" / "transformer"
    arrays = load_file(original / "diffusion_pytorch_model.safetensors")
    change(arrays)
    config = json.loads((original / "config.json").read_text()) | settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    write(arrays, tmp_path / "diffusion_pytorch_model.bin")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "holds a UNet2DModel, not a DiTTransformer2DModel"),
        ({"num_layers": 3}, r"does not fit its config.json: missing: transformer_blocks.2|missing"),
        ({"num_layers": 1}, "does not fit its config.json: unexpected: transformer_blocks.1"),
        ({"attention_head_dim": 16}, "does not fit a DiT of .* instead of"),
        ({"num_attention_heads": "2"}, "num_attention_heads must be a positive integer, not '2'"),
        ({"sample_size": None}, "sample_size must be a positive integer, not None"),
        ({"out_channels": 3}, "out_channels=3 does not go with in_channels=4"),
        ({"activation_fn": "geglu"}, "activation_fn='geglu' makes no DiT"),
    ],
)
def test_a_config_that_does_not_match_is_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        weights.load(folder(tmp_path, **changed))


def test_untied_embedders_are_refused(tmp_path):
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.weight"

    def change(arrays):
        arrays[name] = arrays[name] + 1e-6

    with pytest.raises(ValueError, match="trained with them untied"):
        weights.load(folder(tmp_path, change))


def test_a_folder_without_its_parts_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder of diffusers: no config.json"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"config.json is corrupt"):
        weights.load(tmp_path)
    (tmp_path / "config.json").write_text((FILES / "diffusers/transformer/config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"has no diffusion_pytorch_model.safetensors"):
        weights.load(tmp_path)


def test_export_refuses_what_a_format_cannot_hold(tmp_path):
    network = DiTModel(**SMALL | {"input_shape": (4, 8, 4)})
    with pytest.raises(ValueError, match="diffusers knows square images"):
        weights.export(network, tmp_path / "x", format="diffusers")
    with pytest.raises(ValueError, match="format must be one of diffusers, facebook_dit"):
        weights.export(network, tmp_path / "x", format="difusers")
    with pytest.raises(ValueError, match="network must be a DiTModel"):
        weights.export("network", tmp_path / "x")
    with pytest.raises(ValueError, match="without classes"):
        weights.export(DiTModel(**SMALL | {"num_classes": None}), tmp_path / "x.pt")
    assert not (tmp_path / "x").exists()
