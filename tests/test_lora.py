"""Laws of adapters (LoRA): where they are, what trains, files, and agreement with peft."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, path, run, set_weights, weights_of

import keras_dit
from keras_dit import Diffusion, DiTModel, adapt, weights

PEFT = pathlib.Path(__file__).parent / "goldens" / "peft"
SIZE = {"input_shape": (8, 8, 1), "patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
X = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")
T, Y = np.array([1.0, 30.0, 500.0, 999.0], "float32"), np.array([0, 1, 2, 3], "int32")


def make(**changes):
    return draw_weights(DiTModel(**{**SIZE, "num_classes": 3, **changes}))


def adapted(network, seed=1):
    """A network whose adapters, and whatever else trains, are at random."""
    generator = np.random.default_rng(seed)
    for weight in network.trainable_weights:
        weight.assign(0.2 * generator.standard_normal(weight.shape).astype("float32"))
    return network


def output(network, x=X, t=T, y=Y):
    return run(network, x, t, y)


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def arrays(path):
    return {name: stored.read() for name, stored in weights.files.read(path).items()}


# On a network


def test_adapters_start_at_nothing_and_train_alone():
    network = make()
    before, held = output(network), weights_of(network)
    adapt.add_lora(network, 2)
    names = {path(network, w).rpartition("/lora")[0] for w in network.trainable_weights}
    maps = ("attention/qkv", "attention/projection", "mlp/mlp_in", "mlp/mlp_out")
    assert names == {f"block_0/{m}" for m in maps}
    close(output(network), before)
    diffusion = Diffusion(network, ema=0.9)
    diffusion.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    for _ in range(2):
        diffusion.train_on_batch(X, np.minimum(Y, 2))
    after = weights_of(network)
    assert all(np.array_equal(after[name], held[name]) for name in held)
    assert all(np.any(a != 0) for name, a in after.items() if name.endswith("lora_kernel_b"))


def test_merged_and_removed_are_what_they_say():
    network = make()
    before, names = output(network), [w.path for w in network.weights]
    with_adapters = output(adapted(adapt.add_lora(network, 3, "mlp|modulation", alpha=6)))
    assert np.abs(with_adapters - before).max() > 0.1
    copy = network.copied()
    close(output(copy), with_adapters)
    close(output(adapt.merge_lora(network)), with_adapters)
    assert [w.path for w in network.weights] == names
    assert len(network.trainable_weights) == len(names) - 1
    adapted(adapt.add_lora(network, 2))
    close(output(adapt.remove_lora(network)), with_adapters)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_network_wears_adapters(mode, tmp_path):
    network = make()
    network.quantize(mode)
    before = output(network)
    adapted(adapt.add_lora(network, 2))
    there = output(network)
    assert np.abs(there - before).max() > 0.1
    merged = output(adapt.merge_lora(network))  # rounded to integers anew
    assert np.abs(merged - there).max() < (0.1 if mode == "int8" else 0.5) * np.abs(there).max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "rank must be an integer of 1 or more. Received: rank=0"),
        ((2, "nowhere"), r"pattern must be found in a name, such as .*Received: pattern='nowhere'"),
        ((2, "("), "pattern must be a regular expression"),
        ((2, "mlp", -1.0), "alpha must be None or a number above 0. Received: alpha=-1.0"),
        ((2, "mlp", None, "nothing"), "whole must be found in a name"),
    ],
)
def test_what_makes_no_adapters_is_refused_before_anything_changes(arguments, message):
    network = make()
    with pytest.raises(ValueError, match=message):
        adapt.add_lora(network, *arguments)
    assert len(network.trainable_weights) == len(make().trainable_weights)


def test_twice_and_none_are_refused(tmp_path):
    network = adapt.add_lora(make(), 2)
    with pytest.raises(ValueError, match="has adapters already"):
        adapt.add_lora(network, 2)
    for act in (adapt.merge_lora, adapt.remove_lora):
        with pytest.raises(ValueError, match="has no adapters"):
            act(make())
    with pytest.raises(ValueError, match="has no adapters"):
        adapt.save_lora(make(), tmp_path / "lora.safetensors")


# Files


@pytest.mark.parametrize("name", ["lora.safetensors", "folder"])
@pytest.mark.parametrize("names", ["facebook_dit", "diffusers"])
def test_a_file_holds_the_adapters_alone_and_gives_them_back(name, names, tmp_path):
    pattern = "qkv|mlp_in|time|patches|modulation"
    network = adapted(adapt.add_lora(make(), 2, pattern, alpha=3, whole="label/"))
    adapt.save_lora(network, tmp_path / name, names=names)
    other = adapt.load_lora(make(), tmp_path / name)
    close(output(other), output(network))
    assert len(other.trainable_weights) == len(network.trainable_weights)
    file = tmp_path / name if name != "folder" else tmp_path / name / "adapter_model.safetensors"
    trained = sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    more = {"facebook_dit": 0, "diffusers": 2 * 2 * 16}[names]  # A of q, k and v
    assert sum(a.size for a in arrays(file).values()) == trained + more


def test_several_are_weighted_and_swapped(tmp_path):
    """The weights of the network are W + 0.7 s A B + (-0.4) s' A' B' of float64."""
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    network, expected = make(), weights_of(make())
    for file, rank, share, pattern in zip(files, (2, 3), (0.7, -0.4), ("qkv|mlp", "qkv")):
        adapted(adapt.add_lora(network, rank, pattern, alpha=5), seed=rank)
        for name, layer in adapt.lora.adaptable(network).items():
            if layer.lora_enabled:
                a, b = (ops.convert_to_numpy(v).astype("float64") for v in adapt.lora.pair(layer))
                expected[f"{name}/kernel"] = expected[f"{name}/kernel"] + share * 5 / rank * a @ b
        adapt.save_lora(network, file)
        adapt.remove_lora(network)
    adapt.load_lora(network, files, [0.7, -0.4])
    both = output(network)
    adapt.load_lora(network, files[1])
    alone = output(network)
    adapt.load_lora(network, files, weights=[0.7, -0.4])
    close(output(network), both, 1e-7)
    assert np.abs(alone - both).max() > 0.1
    merged = weights_of(adapt.merge_lora(network))
    for name, value in expected.items():
        np.testing.assert_allclose(merged[name], value, atol=1e-6)


def test_a_model_that_was_sampled_samples_with_other_adapters(tmp_path):
    """What was compiled for some adapters knows of others."""
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for seed, (rank, file) in enumerate(zip((2, 2, 3), files, strict=True)):
        adapt.save_lora(adapted(adapt.add_lora(make(), rank), seed), file)
    one = Diffusion(make(), ema=None)
    images = []
    for file in [*files, files[0]]:
        adapt.load_lora(one.network, file)
        images.append(one.generate([1], steps=1))
    np.testing.assert_array_equal(images[0], images[3])
    assert min(np.abs(images[i] - images[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05
    adapt.merge_lora(one.network)
    close(one.generate([1], steps=1), images[0], 1e-4)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    file = tmp_path / "lora.safetensors"
    adapt.save_lora(adapted(adapt.add_lora(make(), 2, whole="label/")), file)
    with pytest.raises(ValueError, match=r"of another size: .*projection is \(16, 16\) there and"):
        adapt.load_lora(make(hidden_size=32), file)
    with pytest.raises(ValueError, match=r"holds label/table of shape \(4, 16\).*adapt.resize it"):
        adapt.load_lora(make(num_classes=9), file)
    with pytest.raises(ValueError, match="layers that the network has not: blocks/0/mlp/fc1"):
        adapt.load_lora(
            make(patch_size=2, block=keras_dit.AdaLNBlock(2, mlp=keras_dit.layers.SwiGLU())), file
        )
    with pytest.raises(ValueError, match="weights must be one for each"):
        adapt.load_lora(make(), file, [1.0, 2.0])
    with pytest.raises(ValueError, match="only one can be loaded"):
        adapt.load_lora(make(), [file, file])
    with pytest.raises(FileNotFoundError):
        adapt.load_lora(make(), tmp_path / "none.safetensors")
    weights.export(make(), tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="holds no adapters"):
        adapt.load_lora(make(), tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=r"PEFT: adapt\.load_lora"):
        weights.load(file)


def test_other_kinds_of_adapters_are_refused(tmp_path):
    adapt.save_lora(adapt.add_lora(make(), 2), tmp_path / "it")
    config = json.loads((tmp_path / "it" / "adapter_config.json").read_text())
    (tmp_path / "it" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match=r"another kind than LoRA.*DoRA"):
        adapt.load_lora(make(), tmp_path / "it")


# peft


@pytest.fixture(scope="module")
def golden():
    with np.load(PEFT.parent / "facebook_dit_b.npz") as arrays:
        return dict(arrays)


def published(golden, tmp_path):
    tensors = {n: weights.Stored(a.shape, lambda a=a: a) for n, a in golden.items() if "/" not in n}
    weights.files.write(tensors, tmp_path / "dit.safetensors")
    return weights.load(tmp_path / "dit.safetensors", num_heads=2)


def peft_output(name):
    with np.load(PEFT / "outputs.npz") as outputs:
        return outputs[name].transpose(0, 2, 3, 1)


def inputs(arrays, start="run/"):
    x, t, y = (arrays[start + name] for name in "xty")
    return x.transpose(0, 2, 3, 1), t, y


@pytest.mark.parametrize("name", ["wide", "plain", "classes"])
def test_adapters_of_peft_give_its_outputs_and_go_back_as_they_came(name, golden, tmp_path):
    network = adapt.load_lora(published(golden, tmp_path), PEFT / name)
    close(output(network, *inputs(golden)), peft_output(name))
    adapt.save_lora(network, tmp_path / name)
    came, went = (arrays(p / name / "adapter_model.safetensors") for p in (PEFT, tmp_path))
    assert came.keys() == went.keys()
    for key in came:
        np.testing.assert_array_equal(came[key], went[key])
    close(output(adapt.merge_lora(network), *inputs(golden)), peft_output(name))


def test_a_weighted_sum_of_adapters_is_pefts(golden, tmp_path):
    network = adapt.load_lora(
        published(golden, tmp_path), [PEFT / "wide", PEFT / "plain"], [0.7, -0.4]
    )
    close(output(network, *inputs(golden)), peft_output("combined"))


def test_adapters_of_a_dit_of_diffusers_give_its_outputs(tmp_path):
    network = weights.load(PEFT.parent / "weights" / "diffusers")
    adapt.load_lora(network, PEFT / "diffusers")
    with np.load(PEFT.parent / "weights" / "diffusers.npz") as arrays:
        given = inputs(arrays, "")
    close(output(network, *given), peft_output("diffusers"))
    adapt.save_lora(network, tmp_path / "it", names="diffusers")
    other = weights.load(PEFT.parent / "weights" / "diffusers")
    close(output(adapt.load_lora(other, tmp_path / "it"), *given), peft_output("diffusers"))


def test_the_copies_of_a_layer_in_diffusers_have_one_adapter(tmp_path):
    folder, file = PEFT.parent / "weights" / "diffusers", tmp_path / "it.safetensors"
    network = adapted(adapt.add_lora(weights.load(folder), 2, "time"))
    adapt.save_lora(network, file, names="diffusers")
    assert {name.partition(".norm1.")[0][-1] for name in arrays(file)} == {"0", "1"}
    other = weights_of(adapt.load_lora(weights.load(folder), file))
    for name, value in weights_of(network).items():
        np.testing.assert_array_equal(other[name], value)


def test_a_network_of_other_parts_keeps_its_own_names(tmp_path):
    block = keras_dit.AdaLNBlock(2, mlp=keras.layers.Dense(16))
    network = draw_weights(DiTModel(**{**SIZE, "block": block}))
    before = weights_of(network)
    adapted(adapt.add_lora(network, 2, "attention|block_0/mlp"))
    adapt.save_lora(network, tmp_path / "lora.safetensors")
    other = DiTModel(**{**SIZE, "block": block})
    set_weights(other, before)
    adapt.load_lora(other, tmp_path / "lora.safetensors")
    close(run(other, X, T), run(network, X, T))
    assert "base_model.model.block_0.mlp.lora_A.weight" in arrays(tmp_path / "lora.safetensors")
