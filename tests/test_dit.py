"""Laws of keras_dit.DiTModel: the published network, its sizes, precision, remat and files."""

import json
import pathlib
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from reference import (
    Moves,
    Reconstruction,
    Trainer,
    dit,
    draw_weights,
    path,
    run,
    set_weights,
    weights_of,
)

import keras_dit
from keras_dit.conditions import TimestepEmbedding, Tokens
from keras_dit.layers import AdaLNBlock, CrossAttention, InContextAttention, SwiGLU
from keras_dit.networks import PRESETS, SIZES, count_parameters, multiply_adds, preset_config
from keras_dit.predictions import FlowVelocity

GOLDENS = pathlib.Path(__file__).parent / "goldens"
TINY = {"input_shape": (4, 6, 2), "patch_size": 2, "hidden_size": 8, "depth": 2, "num_heads": 2}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def tiny(**changes):
    return keras_dit.DiTModel(**{**TINY, "num_classes": 3, **changes})


def inputs(n=4, shape=(4, 6, 2), seed=0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((n, *shape)).astype("float32")
    t = np.linspace(0.0, 999.25, n, dtype="float32")
    return x, t, (np.arange(n) % 4).astype("int32")


# Against facebookresearch/DiT


def load_golden(name):
    with np.load(GOLDENS / f"facebook_dit_{name}.npz") as file:
        return dict(file)


def from_facebook(golden):
    """Its tensors under the names that they have here: kernels transposed, patches flattened."""
    names = {
        "x_embedder.proj": "patches/projection",
        "t_embedder.mlp.0": "time/mlp_in",
        "t_embedder.mlp.2": "time/mlp_out",
        "final_layer.linear": "final/projection",
        "attn.qkv": "attention/qkv",
        "attn.proj": "attention/projection",
        "mlp.fc1": "mlp/mlp_in",
        "mlp.fc2": "mlp/mlp_out",
        "blocks.": "block_",
        "final_layer": "final",
        "adaLN_modulation.1": "modulation",
        ".weight": "/kernel",
        ".bias": "/bias",
        ".": "/",
    }
    weights = {}
    for key, value in golden.items():
        if key == "pos_embed":
            weights["positions"] = value
        elif key == "y_embedder.embedding_table.weight":
            weights["label/table"] = value
        elif "/" not in key:
            if value.ndim == 4:  # of a convolution
                value = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]).T
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            weights[key] = value.T
    return weights


def foreign_network(golden):
    option = {
        key.removeprefix("config/"): v.item() for key, v in golden.items() if "config/" in key
    }
    side = option["input_size"]
    network = keras_dit.DiTModel(
        (side, side, option["in_channels"]),
        option["patch_size"],
        option["hidden_size"],
        option["depth"],
        option["num_heads"],
        option["num_classes"],
        learned_variance=option["learn_sigma"],
    )
    set_weights(network, from_facebook(golden))
    return network


def channels_last(images):
    return images.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", "abc")
def test_the_network_is_that_of_facebookresearch(name):
    golden = load_golden(name)
    network = foreign_network(golden)
    x, t, y = channels_last(golden["run/x"]), golden["run/t"], golden["run/y"]
    expected = channels_last(golden["run/output"])
    output = run(network, x, t, y)
    # At large t float32 t · frequency is the floor: tests/goldens/README.md.
    np.testing.assert_allclose(output[:2], expected[:2], atol=4e-6)
    np.testing.assert_allclose(output, expected, atol=1e-4)
    nobody = run(network, x[[1, 4]], t[[1, 4]], None)
    np.testing.assert_allclose(nobody, output[[1, 4]], atol=4e-6)


@pytest.mark.parametrize("name", "abc")
def test_the_reference_of_these_tests_is_that_of_facebookresearch(name):
    golden = load_golden(name)
    option = golden["config/patch_size"].item(), golden["config/num_heads"].item()
    x, t, y = channels_last(golden["run/x"]), golden["run/t"], golden["run/y"]
    output = dit(from_facebook(golden), x, t, y, *option)
    np.testing.assert_allclose(output, channels_last(golden["run/output"]), atol=1e-4)


@pytest.mark.parametrize("name", "ab")
def test_gradients_are_those_of_facebookresearch(name):
    golden = load_golden(name)
    network = foreign_network(golden)
    x, t, y = channels_last(golden["run/x"]), golden["run/t"], golden["run/y"]
    cotangent = channels_last(golden["run/cotangent"])
    moves, before = Moves([x.shape]), weights_of(network)

    def loss():
        output = network(moves.values[0] + x, t, y, training=False)
        return ops.sum(ops.multiply(output, cotangent))

    Trainer([network, moves], loss).step()
    expected = {k.removeprefix("grad/"): v for k, v in golden.items() if k.startswith("grad/")}
    of_x = channels_last(expected.pop("x"))
    np.testing.assert_allclose(-numpy(moves.values[0]), of_x, atol=5e-5 * np.abs(of_x).max())
    expected, after = from_facebook(expected), weights_of(network)
    assert len(expected) == 5
    for key, gradient in expected.items():
        # A weight of 0.6 and its move round to 6e-8.
        atol = 5e-5 * np.abs(gradient).max() + 1e-7
        np.testing.assert_allclose(before[key] - after[key], gradient, atol=atol, err_msg=key)


# What it computes


def test_a_new_network_gives_exactly_zero():
    network = tiny(learned_variance=True)
    x, t, y = inputs()
    output = run(network, 100 * x, t, y)
    np.testing.assert_array_equal(output, np.zeros((4, 4, 6, 4), "float32"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_classes": None},
        {"learned_variance": True, "mlp_ratio": 2.5},
        {"input_shape": (8, 4, 3), "patch_size": 4, "num_heads": 4},
        {"input_shape": (3, 2, 1), "patch_size": 1, "depth": 1, "num_heads": 1},
    ],
)
def test_any_configuration_is_its_formula(changes):
    network = draw_weights(tiny(**changes))
    x, t, y = inputs(shape=network.image_shape)
    y = None if network.num_classes is None else y
    expected = dit(
        weights_of(network), x, t, y, network.config["patch_size"], network.config["num_heads"]
    )
    output = run(network, x, t, y)
    assert output.shape == network.compute_output_shape(x.shape, t.shape) == expected.shape
    np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max())


def test_no_label_is_the_null_label_and_one_time_is_everybodys():
    network = draw_weights(tiny())
    x, _, _ = inputs()
    expected = run(network, x, np.full(4, 250.75, "float32"), np.full(4, 3, "int32"))
    for output in (
        run(network, x, np.full(4, 250.75, "float32"), None),
        run(network, x, np.array(250.75, "float32"), np.array(3)),
        numpy(network(x, t=250.75)),
    ):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_permuting_a_batch_permutes_its_output():
    network = draw_weights(tiny())
    order = np.array([2, 0, 3, 1])
    together = run(network, *inputs())
    permuted = run(network, *(part[order] for part in inputs()))
    np.testing.assert_allclose(permuted, together[order], atol=1e-5)
    x, t, y = (part[1:2] for part in inputs())
    np.testing.assert_allclose(run(network, x, t, y)[0], together[1], atol=1e-5)


def test_labels_are_dropped_in_training_only():
    network = draw_weights(tiny(label_dropout=0.5))
    x, t, y = (np.repeat(part[:1], 64, axis=0) for part in inputs())
    given, null = (run(network, x, t, label)[0] for label in (y, None))
    outputs = numpy(network(x, t, y, training=True))
    dropped = np.abs(outputs - null).max(axis=(1, 2, 3)) < 1e-5
    kept = np.abs(outputs - given).max(axis=(1, 2, 3)) < 1e-5
    assert (dropped ^ kept).all()
    assert 10 < dropped.sum() < 54


# Sizes

TABLE = {  # WEIGHTS.md: 32 x 32 x 4, 1000 classes, learned variance
    "s": (32_963_360, (6.06, 1.41, 0.36)),
    "b": (130_512_416, (23.01, 5.57, 1.42)),
    "l": (458_102_816, (80.70, 19.70, 5.01)),
    "xl": (675_129_632, (118.62, 29.04, 7.39)),
}


def published(size, patch, side=32):
    config = preset_config(f"dit_{size}_{patch}")
    return {**config, "input_shape": (side, side, 4), "num_classes": 1000, "learned_variance": True}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size):
    parameters, gigas = TABLE[size]
    assert count_parameters(published(size, 2)) == parameters
    for patch, giga in zip((2, 4, 8), gigas, strict=True):
        assert round(multiply_adds(published(size, patch)) / 1e9, 2) == giga


def test_the_largest_at_512_pixels():
    assert round(multiply_adds(published("xl", 2, side=64)) / 1e9, 1) == 524.5


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_classes": None}, {"learned_variance": True, "mlp_ratio": 2.5}, {"patch_size": 1}],
)
def test_counted_parameters_are_those_of_the_network(changes):
    config = {**TINY, "num_classes": 3, **changes}
    assert count_parameters(config) == keras_dit.DiTModel(**config).count_params()


def test_cost_is_asked_of_the_parts_of_a_block():
    width, tokens = TINY["hidden_size"], 6
    parts = {
        "swiglu": AdaLNBlock(2, mlp=SwiGLU(3.0)),
        "cross": AdaLNBlock(2, cross_attention=CrossAttention(2)),
        "joined": AdaLNBlock(2, attention=InContextAttention(2)),
        "plain": AdaLNBlock(2),
    }
    cost = {}
    for name, block in parts.items():
        conditions = {"text": Tokens(5, 3)} if block.sees_tokens else {}
        network = keras_dit.DiTModel(**TINY, block=block, conditions=conditions)
        assert count_parameters(network.config) == network.count_params()
        told = 3 * 5 * width if conditions else 0  # their map to the network's width
        cost[name] = (multiply_adds(network.config) - told) / TINY["depth"]
    swiglu = tokens * 3 * 2 * width * width - tokens * 8 * width * width
    cross = (2 * tokens + 2 * 4) * width**2 + 2 * tokens * 4 * width
    joined = 4 * 3 * width**2 + 2 * tokens * 4 * width
    assert cost["swiglu"] - cost["plain"] == swiglu
    assert cost["cross"] - cost["plain"] == cross
    assert cost["joined"] - cost["plain"] == joined


def test_presets():
    assert len(PRESETS) == 12 + 5 + 8  # of DiT, of LightningDiT and of JiT
    network = keras_dit.DiTModel.from_preset("dit_s_8", input_shape=(8, 8, 1), depth=1)
    assert (network.config["hidden_size"], network.config["num_heads"]) == (384, 6)
    assert (network.config["depth"], network.num_classes) == (1, None)
    with pytest.raises(ValueError, match=r"one of dit_xl_2, .*dit_b_8.*preset='dit_xl2'"):
        keras_dit.DiTModel.from_preset("dit_xl2", input_shape=(8, 8, 1))


# Remat and precision


def test_remat_changes_memory_alone():
    """Outputs, and the weights after steps of a compiled fit, which shows the gradients."""
    x, t, y = inputs(8)
    results = {}
    for remat in (False, True):
        network = draw_weights(tiny(remat=remat, label_dropout=0.0))
        output = run(partial(network, training=True), x, t, y)
        diffusion = keras_dit.Diffusion(
            network, keras_dit.schedules.RectifiedFlow(), FlowVelocity(), Reconstruction(), ema=None
        )
        diffusion.compile(keras.optimizers.SGD(0.1))
        diffusion.fit(np.tanh(x), y % 3, batch_size=8, epochs=2, verbose=0)
        results[remat] = output, weights_of(network)
    (output, weights), (output_remat, weights_remat) = results[False], results[True]
    np.testing.assert_allclose(output_remat, output, atol=1e-6)
    new = weights_of(draw_weights(tiny()))
    for key, value in weights.items():
        moved = np.abs(value - new[key]).max()
        assert moved > 0 or key == "positions"
        np.testing.assert_allclose(weights_remat[key], value, atol=1e-3 * moved, err_msg=key)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_half_precision_is_close_and_gives_float32(policy):
    x, t, y = inputs()
    single, half = draw_weights(tiny()), draw_weights(tiny(dtype=policy))
    output = run(half, x, t, y)
    assert output.dtype == np.float32
    assert (
        half.patches.compute_dtype == half.blocks[0].mlp_in.compute_dtype == policy[-8:].strip("_")
    )
    expected = run(single, x, t, y)
    error = np.abs(output - expected)
    assert error.max() < 0.05 * np.abs(expected).max()
    assert error.max() > 0  # or it was not half precision at all


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (5, 6, 2)}, r"patch_size=2, input_shape=\(5, 6, 2\)"),
        ({"input_shape": (4, 7, 2)}, r"patch_size=2, input_shape=\(4, 7, 2\)"),
        ({"input_shape": (4, 6)}, r"\(height, width, channels\).*input_shape=\(4, 6\)"),
        ({"input_shape": (4, 6, 0)}, r"all at least 1.*\(4, 6, 0\)"),
        ({"input_shape": (None, 6, 1)}, r"\(None, 6, 1\)"),
        ({"patch_size": 0}, "patch_size must be an integer of 1 or more. Received: 0"),
        ({"depth": -1}, "depth must be an integer of 1 or more. Received: -1"),
        ({"num_heads": 0}, "num_heads must be an integer of 1 or more. Received: 0"),
        ({"hidden_size": 8.0}, "hidden_size must be an integer of 1 or more. Received: 8.0"),
        ({"hidden_size": 9}, "of num_heads and of 4. Received: hidden_size=9, num_heads=2"),
        ({"hidden_size": 8, "num_heads": 3}, "Received: hidden_size=8, num_heads=3"),
        ({"hidden_size": 6}, "Received: hidden_size=6, num_heads=2"),
        ({"num_classes": 0}, "num_classes must be None or at least 1. Received: num_classes=0"),
        ({"condition_dropout": 1.0}, r"must be in \[0, 1\). Received: condition_dropout=1.0"),
        ({"label_dropout": -0.1}, "Received: condition_dropout=-0.1"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive. Received: mlp_ratio=0"),
        ({"mlp_ratio": float("nan")}, "Received: mlp_ratio=nan"),
    ],
)  # fmt: skip
def test_numbers_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_numbers_may_be_numpys():
    """As num_classes = labels.max() + 1 and images.shape of an array are apt to be."""
    labels = np.array([0, 2, 1])
    network = tiny(num_classes=labels.max() + 1, depth=np.int32(1), input_shape=np.array([4, 6, 2]))
    assert network.config == tiny(depth=1).config
    json.dumps(keras.saving.serialize_keras_object(network))


# As a Keras object


CHANGED = {
    "learned_variance": True,
    "mlp_ratio": 2.0,
    "label_dropout": 0.3,
    "remat": True,
    "time": TimestepEmbedding(frequency_shift=1),
    "dtype": "mixed_bfloat16",
    "name": "mine",
}


def test_a_network_comes_back_from_its_configuration():
    network = tiny(**CHANGED)
    text = json.dumps(keras.saving.serialize_keras_object(network))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.config == network.config
    assert again.get_config() == network.get_config()
    assert (again.name, again.dtype_policy.name) == ("mine", "mixed_bfloat16")
    assert [path(again, w) for w in again.weights] == [path(network, w) for w in network.weights]


@pytest.mark.parametrize("changes", [{}, CHANGED, {"num_classes": None}])
def test_a_network_comes_back_from_its_file(tmp_path, changes):
    network = draw_weights(tiny(**changes))
    x, t, y = inputs()
    y = None if network.num_classes is None else y
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(run(loaded, x, t, y), run(network, x, t, y))
    network.save_weights(tmp_path / "network.weights.h5")
    other = tiny(**changes)
    other.load_weights(tmp_path / "network.weights.h5")
    np.testing.assert_array_equal(run(other, x, t, y), run(network, x, t, y))


def test_a_network_is_a_layer_of_an_ordinary_model(tmp_path):
    x, t, y = inputs(8)
    given = [keras.Input((4, 6, 2)), keras.Input(()), keras.Input((), dtype="int32")]
    model = keras.Model(given, tiny(label_dropout=0.0)(*given))
    assert model.output_shape == (None, 4, 6, 2)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    history = model.fit([x, t, y], x, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded([x, t, y])), numpy(model([x, t, y])))


def test_output_channels_mean_what_the_prediction_says():
    """A network of more channels has no learned variance unless it says so."""
    size = {"patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
    for channels in (3, 6, 5):
        network = keras_dit.DiTModel((4, 4, 3), **size, output_channels=channels)
        x, t = np.zeros((2, 4, 4, 3), "float32"), np.zeros(2, "float32")
        assert tuple(network(x, t).shape) == (2, 4, 4, channels)
        assert network.count_params() == count_parameters(network.config)
        again = keras_dit.DiTModel.from_config(network.get_config())
        assert again.output_channels == channels
    half = keras_dit.predictions.HalfUnused(keras_dit.predictions.FlowVelocity())
    network = keras_dit.DiTModel((4, 4, 3), **size, output_channels=6)
    assert keras_dit.Diffusion(network, prediction=half).prediction == half
    with pytest.raises(ValueError, match="needs a network with 3 output channels"):
        keras_dit.Diffusion(network)  # it is not taken for a learned variance
    learned = keras_dit.DiTModel((4, 4, 3), **size, output_channels=6, learned_variance=True)
    assert learned.output_channels == 6
    for wrong in ({"output_channels": 0}, {"output_channels": 2.0}):
        with pytest.raises(ValueError, match="output_channels must be None or an integer, >= 1"):
            keras_dit.DiTModel((4, 4, 3), **size, **wrong)
    with pytest.raises(ValueError, match=r"6 with a learned variance. Received: .*=4"):
        keras_dit.DiTModel((4, 4, 3), **size, output_channels=4, learned_variance=True)


def test_a_frozen_network_comes_back_frozen():
    network = tiny()
    network.trainable = False
    copy = keras_dit.DiTModel.from_config(network.get_config())
    assert not keras_dit.Diffusion(copy).trainable_variables
    assert keras_dit.Diffusion(tiny()).trainable_variables
