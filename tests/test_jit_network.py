"""Laws of JiT's parts: patches by way of a bottleneck, tokens that join those of the image."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, gradients, run

import keras_dit
from keras_dit import adapt, caching
from keras_dit.conditions import Label, Vector
from keras_dit.layers import (
    BottleneckPatchEmbedding,
    InContextTokens,
    PatchEmbedding,
    Rotary,
    grid_positions,
)
from keras_dit.networks import count_parameters, multiply_adds, preset_config
from keras_dit.networks.memory import training_memory
from keras_dit.networks.presets import jit_parts
from keras_dit.networks.resizing import maps

SIZE = {"input_shape": (8, 8, 3), "patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
PARTS = jit_parts(2, bottleneck=6, start=1, count=3)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def jit(**changes):
    settings = {**SIZE, **PARTS, "num_classes": 4, "condition_dropout": 0.0, **changes}
    return draw_weights(keras_dit.DiTModel(**settings))


X, T, Y = draw(3, 8, 8, 3), np.array([0.1, 0.5, 0.9], "float32"), np.array([0, 3, 4])


def compiled(function, *arrays):
    """Its results as numpy."""
    if keras.backend.backend() == "jax":
        function = keras_dit.backend.compile_inference(function)
    return [numpy(part) for part in function(*map(ops.convert_to_tensor, arrays))]


def output(network, y=Y):
    return run(network, X, T, y)


def test_a_bottleneck_is_one_linear_map_of_low_rank():
    layer = BottleneckPatchEmbedding(2, patch_size=4, hidden_size=8)
    layer.build((None, 8, 8, 3))
    draw_weights(layer)
    whole = PatchEmbedding(4, 8)
    whole.build((None, 8, 8, 3))
    product = numpy(layer.inner.kernel) @ numpy(layer.projection.kernel)
    assert np.linalg.matrix_rank(product) == 2
    whole.projection.kernel.assign(product)
    whole.projection.bias.assign(layer.projection.bias)
    np.testing.assert_allclose(run(layer, X), run(whole, X), atol=1e-5)
    assert len(layer.trainable_weights) == 3


def test_in_context_tokens_are_copies_with_positions():
    layer = InContextTokens(3)
    layer.build((None, 4, 8), (None, 8))
    tokens, vector = draw(2, 4, 8), draw(2, 8, seed=1)
    found = run(layer, tokens, vector)
    np.testing.assert_array_equal(found[:, 3:], tokens)
    expected = vector[:, None] + numpy(layer.positions)
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-6)


def test_rotary_positions_turn_no_copy():
    layer = InContextTokens(2)
    places = layer.places(grid_positions(2, 2))
    heads = draw(1, 1, 6, 8)
    turned = run(Rotary(), heads, places)
    np.testing.assert_allclose(turned[:, :, :2], heads[:, :, :2], atol=1e-6)
    np.testing.assert_allclose(turned[:, :, 2:], run(Rotary(), heads[:, :, 2:], places[2:]))


def test_they_reach_the_image_from_their_block_on_and_not_before():
    """Where the gates of the blocks from there on are shut, they change nothing."""
    network, plain = jit(), jit(in_context=None, in_context_start=0)
    assert np.abs(output(network) - output(plain)).max() > 1e-3
    for model in (network, plain):
        for weight in model.blocks[1].modulation.weights:
            weight.assign(np.zeros(weight.shape))
    theirs = {w.path.partition("/")[2]: w for w in network.weights}
    for weight in plain.weights:
        weight.assign(theirs[weight.path.partition("/")[2]])
    np.testing.assert_allclose(output(network), output(plain), atol=1e-6)


def test_the_order_of_the_copies_makes_no_difference():
    network = jit()
    before = output(network)
    positions = network.in_context.positions
    positions.assign(numpy(positions)[:, ::-1])
    np.testing.assert_allclose(output(network), before, atol=2e-5)


def test_each_start_is_another_network_of_the_same_weights():
    outputs = [output(jit(in_context_start=start)) for start in (0, 1)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_without_conditions_the_copies_are_their_positions():
    network = jit(num_classes=None)
    assert np.isfinite(output(network, None)).all()
    assert network.in_context.positions.shape == (1, 3, 16)


def test_they_hold_what_all_conditions_say():
    conditions = {"label": Label(4), "age": Vector(1)}
    network = jit(num_classes=None, conditions=conditions)
    age = np.ones((3, 1), "float32")
    told = run(lambda x: network(x, T, {"label": Y, "age": age}), X)
    assert told.shape == (3, 8, 8, 3)
    assert np.abs(told - run(lambda x: network(x, T, {"label": Y}), X)).max() > 1e-3


def test_it_comes_back_from_its_file(tmp_path):
    network = jit()
    network.save(tmp_path / "jit.keras")
    loaded = keras.saving.load_model(tmp_path / "jit.keras")
    np.testing.assert_array_equal(output(loaded), output(network))
    assert loaded.config["in_context_start"] == 1


def test_remat_changes_memory_alone():
    cotangent, found = ops.convert_to_tensor(draw(3, 8, 8, 3, seed=5)), []
    for remat in (False, True):
        network = jit(remat=remat)

        def loss(x, network=network):
            return ops.sum(network(x, T, ops.convert_to_tensor(Y), training=True) * cotangent)

        found += gradients(loss, X)
    assert np.abs(found[0]).max() > 0.1
    np.testing.assert_allclose(*found, atol=1e-4 * np.abs(found[0]).max())


def test_in_half_precision_it_is_nearly_the_same():
    exact, half = output(jit()), output(jit(dtype="mixed_bfloat16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.1 * np.abs(exact).max()


def test_a_cache_takes_its_tokens_along():
    """Of the same image at the same time what the blocks added is what they would add."""
    network = jit()

    def twice(x, t, y):
        memory = caching.Memory.empty()
        cached = caching.CachedNetwork(network, caching.PeriodicCache(2), memory)
        return ops.stack([cached(x, t, y), cached(x, t, y)]), cached.memory.reused

    found, count = compiled(twice, X, T, Y)
    np.testing.assert_allclose(found, np.stack([output(network)] * 2), atol=1e-5)
    assert float(count) == 1.0


def test_pruned_of_blocks_the_tokens_join_at_the_same_one():
    network = jit(depth=3, in_context_start=2)
    for weight in network.blocks[0].modulation.weights:  # of no effect, it is the first to go
        weight.assign(np.zeros(weight.shape))
    smaller = adapt.prune(network, depth=2)
    assert smaller.config["in_context_start"] == 1
    np.testing.assert_allclose(output(smaller), output(network), atol=1e-5)


def test_hidden_tokens_are_those_of_the_image():
    network = jit()
    image, hidden = network(X, T, ops.convert_to_tensor(Y), hidden=(1, 2))
    assert [tuple(tokens.shape) for tokens in hidden] == [(3, 4, 16)] * 2
    np.testing.assert_allclose(numpy(image), output(network), atol=1e-5)


def test_larger_patches_of_a_larger_image_give_the_same_tokens():
    """`adapt.resize` acts on the map that sees the patch."""
    network = jit()
    larger = adapt.resize(network, input_shape=(16, 16, 3), patch_size=8, say=None)
    side = maps.bilinear(4, 8)
    patches = X.reshape(3, 2, 4, 2, 4, 3)
    image = np.einsum("ai,ej,bhiwjc->bhawec", side, side, patches).reshape(3, 16, 16, 3)
    tokens = run(larger.patches, image.astype("float32"))
    np.testing.assert_allclose(tokens, run(network.patches, X), atol=1e-5)
    np.testing.assert_array_equal(*(numpy(n.in_context.positions) for n in (larger, network)))


def test_its_cost_counts_the_tokens_beside_the_image():
    config = {**SIZE, **PARTS, "num_classes": 4}
    plain = {**config, "in_context": None, "in_context_start": 0}
    width, tokens, beside, hidden = 16, 4, 3, int(16 * 8 / 3)
    each = 4 * width**2 + 3 * width * hidden  # attention's maps and the MLP's, of a token
    products = 2 * ((tokens + beside) ** 2 - tokens**2) * width
    assert multiply_adds(config) - multiply_adds(plain) == beside * each + products
    assert count_parameters(config) - count_parameters(plain) == beside * width
    assert count_parameters(config) == jit().count_params()
    assert training_memory(config, 8) > training_memory(plain, 8)


# Li, He (2025), table 9: millions of parameters
@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("jit_b_16", 131),
        ("jit_b_32", 133),
        ("jit_l_16", 459),
        ("jit_h_16", 953),
        ("jit_g_16", 2000),
    ],
)
def test_a_preset_has_the_published_size(preset, millions):
    side = 16 * int(preset.rpartition("_")[2])
    shape = {"input_shape": (side, side, 3), "num_classes": 1000}
    count = count_parameters({**preset_config(preset), **shape}) / 1e6
    assert abs(count - millions) < (60 if millions == 2000 else 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InContextTokens(0), "count must be an integer of 1 or more. Received: count=0"),
        (lambda: BottleneckPatchEmbedding(1.5), "bottleneck must be an integer .* bottleneck=1.5"),
        (lambda: jit(in_context_start=2), "in_context_start must .*in_context_start=2, depth=2"),
        (lambda: jit(patches=keras.layers.Dense(3)), "patches is copied by its configuration"),
    ],
)
def test_what_makes_no_sense_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()
