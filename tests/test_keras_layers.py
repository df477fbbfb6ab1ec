"""What a Keras user expects: Keras's own test of layers, Dense's arguments, int8, LoRA, export."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase
from reference import draw_weights, run

import keras_dit
from keras_dit.conditions import Label, Text, TimestepEmbedding, Tokens, Vector, WordEncoder
from keras_dit.conditions.base import ContextParts
from keras_dit.layers import (
    MLP,
    AdaLNBlock,
    BottleneckPatchEmbedding,
    Context,
    CrossAttention,
    EncoderBlock,
    FinalLayer,
    InContextAttention,
    InContextTokens,
    LayerNorm,
    MeanPooling,
    PatchEmbedding,
    RMSNorm,
    Rotary,
    SelfAttention,
    SwiGLU,
    TokenDense,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


# class, arguments, shapes of the inputs, of the output, number of weights
LAYERS = [
    (TokenDense, {"units": 3, "activation": "relu"}, (2, 5, 8), (2, 5, 3), 2),
    (TokenDense, {"units": 3, "use_bias": False}, (2, 8), (2, 3), 1),
    (LayerNorm, {}, (2, 5, 8), (2, 5, 8), 0),
    (LayerNorm, {"affine": True}, (2, 5, 8), (2, 5, 8), 2),
    (RMSNorm, {}, (2, 5, 8), (2, 5, 8), 1),
    (MLP, {"ratio": 2.0}, (2, 5, 8), (2, 5, 8), 4),
    (SwiGLU, {}, (2, 5, 12), (2, 5, 12), 4),
    (MeanPooling, {}, (2, 5, 8), (2, 8), 1),
    (SelfAttention, {"num_heads": 2, "qk_norm": RMSNorm()}, (2, 5, 8), (2, 5, 8), 6),
    (EncoderBlock, {"num_heads": 2}, (2, 5, 8), (2, 5, 8), 14),
    (PatchEmbedding, {"patch_size": 2, "hidden_size": 8}, (2, 4, 6, 3), (2, 6, 8), 2),
    (
        BottleneckPatchEmbedding,
        {"bottleneck": 3, "patch_size": 2, "hidden_size": 8},
        (2, 4, 6, 3),
        (2, 6, 8),
        3,
    ),
    (
        InContextTokens,
        {"count": 3},
        {"tokens_shape": (2, 5, 8), "vector_shape": (2, 8)},
        (2, 8, 8),
        1,
    ),
    (
        CrossAttention,
        {"num_heads": 2},
        {"tokens_shape": (2, 5, 8), "context_shape": (2, 3, 6)},
        (2, 5, 8),
        6,
    ),
    (
        InContextAttention,
        {"num_heads": 2},
        {"tokens_shape": (2, 5, 8), "context_shape": (2, 3, 8)},
        (2, 5, 8),
        4,
    ),
    (
        AdaLNBlock,
        {"num_heads": 2, "mlp_ratio": 2.0},
        {"tokens_shape": (2, 5, 8), "context_shape": (2, 6)},
        (2, 5, 8),
        10,
    ),
    (
        AdaLNBlock,
        {"num_heads": 2, "norm": RMSNorm(), "mlp": SwiGLU()},
        {"tokens_shape": (2, 5, 12), "context_shape": (2, 12)},
        (2, 5, 12),
        12,
    ),
    (
        FinalLayer,
        {"output_shape": (4, 6, 3), "patch_size": 2},
        {"tokens_shape": (2, 6, 8), "context_shape": (2, 8)},
        (2, 4, 6, 3),
        4,
    ),
    (TimestepEmbedding, {"hidden_size": 8}, (2,), (2, 8), 4),
    (Rotary, {}, {"x_shape": (2, 2, 6, 8), "positions_shape": (6, 2)}, (2, 2, 6, 8), 0),
]


@pytest.mark.parametrize(
    ("layer", "arguments", "shape", "output", "weights"),
    LAYERS,
    ids=[f"{layer.__name__}_{i}" for i, (layer, *_) in enumerate(LAYERS)],
)
def test_kerass_own_test_of_layers(layer, arguments, shape, output, weights):
    TestCase().run_layer_test(
        layer,
        init_kwargs=arguments,
        input_shape=shape,
        expected_output_shape=output,
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        run_training_check=not isinstance(shape, dict),
        supports_masking=layer is TokenDense,
    )


# Conditions: their Context has None in it, which no output of a functional layer may have


@pytest.mark.parametrize(
    ("condition", "shape", "output", "weights"),
    [
        (Label(5, hidden_size=8), (2,), {"vector": (2, 8)}, 1),
        (Vector(3, hidden_size=8), (2, 3), {"vector": (2, 8)}, 4),
        (Tokens(6, 4, hidden_size=8), (2, 4, 6), {"tokens": (2, 5, 8), "mask": (2, 5)}, 3),
        (
            Text(4, WordEncoder(["a"], depth=1, num_heads=2), hidden_size=8),
            (2, 4),
            {"tokens": (2, 4, 8), "mask": (2, 4)},
            18,
        ),
        (
            Text(4, WordEncoder(["a"], 1, 2), hidden_size=8, pooling=MeanPooling()),
            (2, 4),
            {"vector": (2, 8), "tokens": (2, 4, 8), "mask": (2, 4)},
            19,
        ),
    ],
    ids=["Label", "Vector", "Tokens", "Text", "Text with a vector"],
)
def test_kerass_own_test_of_conditions(condition, shape, output, weights):
    TestCase().run_layer_test(
        ContextParts,
        init_kwargs={"condition": condition},
        input_shape=shape,
        input_dtype="int32" if isinstance(condition, (Label, Text)) else "float32",
        expected_output_shape=output,
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_non_trainable_variables=1,
        expected_num_seed_generators=1,
        run_training_check=False,
        run_mixed_precision_check=False,  # the policy is the condition's, not that of its wrapper
    )


def test_conditions_enter_a_functional_model(tmp_path):
    label, image = keras.Input((), dtype="int32"), keras.Input((5, 8))
    words, mask = keras.Input((4, 6)), keras.Input((4,), dtype="bool")
    conditions = Label(10, hidden_size=8), Tokens(6, 4, hidden_size=8)
    vector = conditions[0](label).vector
    _, tokens, there = conditions[1]((words, mask))
    block = AdaLNBlock(2, cross_attention=CrossAttention(2))
    inputs = [label, image, words, mask]
    model = draw_weights(keras.Model(inputs, block(image, Context(vector, tokens, there))))
    values = [np.array([3, 1]), draw(2, 5, 8), draw(2, 4, 6), np.arange(8).reshape(2, 4) > 2]
    told = conditions[1].check([values[2][0][values[3][0]], values[2][1]])
    context = Context(conditions[0](values[0]).vector, *conditions[1](told)[1:])
    expected = numpy(model(values))
    model.save(tmp_path / "functional.keras")
    loaded = keras.saving.load_model(tmp_path / "functional.keras")
    np.testing.assert_allclose(numpy(loaded(values)), expected, atol=1e-6)
    assert len(model.trainable_weights) == 1 + 3 + len(block.trainable_weights)
    np.testing.assert_allclose(numpy(block(values[1], context))[1], expected[1], atol=1e-5)


# Every argument of Dense


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "tanh"},
        {"use_bias": False},
        {"kernel_initializer": "ones", "bias_initializer": "ones"},
        {"kernel_regularizer": "l2", "bias_regularizer": "l1", "activity_regularizer": "l2"},
        {"kernel_constraint": keras.constraints.NonNeg(), "bias_constraint": "unit_norm"},
        {"lora_rank": 2, "lora_alpha": 3.0},
        {"dtype": "int8_from_float32"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_token_dense_honours_the_arguments_of_dense(arguments):
    layers = [kind(6, **arguments) for kind in (TokenDense, keras.layers.Dense)]
    x, generator = draw(2, 3, 5), np.random.default_rng(1)
    for layer in layers:
        layer.build(x.shape)
    for ours, theirs in zip(layers[0].weights, layers[1].weights, strict=True):
        assert (ours.name, ours.trainable) == (theirs.name, theirs.trainable)
        if ours.dtype == "float32":
            theirs.assign(generator.uniform(size=ours.shape))
        ours.assign(theirs)
    outputs = [numpy(layer(x)) for layer in layers]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    np.testing.assert_allclose(*[float(sum(layer.losses)) for layer in layers], rtol=1e-6)
    configs = [{**layer.get_config(), "name": None} for layer in layers]
    assert configs[0] == configs[1]


def test_regularizers_of_parts_reach_the_loss():
    block = AdaLNBlock(2, mlp=keras.layers.Dense(8, activity_regularizer="l2"))
    block(draw(2, 5, 8), draw(2, 8))
    assert len(block.losses) == 1


# The network

TINY = {"input_shape": (4, 4, 1), "patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2}


def network(**changes):
    return draw_weights(keras_dit.DiTModel(**{**TINY, "num_classes": 3, **changes}))


def output(model):
    return run(model, draw(2, 4, 4, 1), np.array([3.0, 700.0], "float32"), np.array([0, 2]))


def is_dense(layer):
    return isinstance(layer, keras.layers.Dense)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_int8_reaches_every_dense_layer_and_the_file(dtype, tmp_path):
    model = network(dtype=dtype)
    before = output(model)
    model.quantize("int8")
    layers = [layer for layer in model._flatten_layers() if is_dense(layer)]
    assert len(layers) == 1 + 2 + 5 + 2  # patches, time, block, last layer
    assert {layer.quantization_mode for layer in layers} == {"int8"}
    after = output(model)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    model.save(tmp_path / "int8.keras")
    loaded = keras.saving.load_model(tmp_path / "int8.keras")
    np.testing.assert_array_equal(output(loaded), after)


def test_lora_starts_where_the_network_is_and_is_merged_into_its_file(tmp_path):
    model = network()
    before = output(model)
    adapted = [layer for layer in model._flatten_layers() if isinstance(layer, TokenDense)]
    for layer in adapted:
        layer.enable_lora(2)
    np.testing.assert_allclose(output(model), before, atol=1e-5)
    for layer in adapted:
        layer.lora_kernel_b.assign(0.1 * draw(*layer.lora_kernel_b.shape))
    after = output(model)
    assert np.abs(after - before).max() > 0.1
    model.save(tmp_path / "lora.keras")
    loaded = keras.saving.load_model(tmp_path / "lora.keras")
    assert not any("lora" in weight.path for weight in loaded.weights)
    np.testing.assert_allclose(output(loaded), after, atol=1e-4)


def test_a_frozen_part_stays():
    model = network()
    for block in model.blocks:
        block.attention.trainable = False
    assert not any("attention" in weight.path for weight in model.trainable_weights)
    assert len(model.trainable_weights) == len(network().trainable_weights) - 4


def test_one_layer_may_have_another_policy():
    model = network()
    model.blocks[0].mlp.mlp_in.dtype_policy = "mixed_bfloat16"
    difference = np.abs(output(model) - output(network())).max()
    assert 0 < difference < 0.1


# Export

FORMATS = {"torch": ["torch", "onnx"], "tensorflow": ["tf_saved_model"], "jax": ["tf_saved_model"]}


def exported(path, format):
    """What another program has of an exported file: a function of numpy arrays."""
    if format == "torch":
        import torch

        program = torch.export.load(path).module()
        return lambda *arrays: program(*map(torch.as_tensor, arrays)).detach().numpy()
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        names = [given.name for given in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda *arrays: loaded.serve(*arrays).numpy()


@pytest.mark.parametrize("format", FORMATS[keras.config.backend()])
@pytest.mark.parametrize("classes", [3, None])
def test_a_network_that_was_never_called_is_exported(classes, format, tmp_path):
    package = {"onnx": "onnxscript", "tf_saved_model": "tensorflow"}.get(format, "torch")
    pytest.importorskip(package)
    model = network(num_classes=classes)
    path = str(tmp_path / {"torch": "network.pt2", "onnx": "network.onnx"}.get(format, "network"))
    model.export(path, format=format, verbose=False)
    serve = exported(path, format)
    for count in (1, 3):
        x, t = draw(count, 4, 4, 1), np.linspace(0.0, 999.0, count, dtype="float32")
        arrays = [x, t] if classes is None else [x, t, np.arange(count, dtype="int32")]
        np.testing.assert_allclose(serve(*arrays), run(model, *arrays), atol=1e-5)
