"""Laws of keras_dit.layers: what each computes, and that each is a Keras layer usable alone."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import block, draw_weights, patches, picture, run, weights_of

from keras_dit.layers import (
    AdaLNBlock,
    FinalLayer,
    PatchEmbedding,
    SelfAttention,
    patchify,
    sincos_positions,
    unpatchify,
)
from keras_dit.layers.linear import TokenDense


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


# Patches


@pytest.mark.parametrize(
    ("height", "width", "channels", "patch"),
    [(4, 4, 1, 2), (6, 4, 3, 2), (4, 12, 2, 4), (5, 3, 4, 1), (9, 3, 2, 3)],
)
def test_patches_are_cut_row_by_row_and_laid_back(height, width, channels, patch):
    images = draw(2, height, width, channels)
    cut = numpy(patchify(images, patch))
    np.testing.assert_array_equal(cut, patches(images, patch))
    np.testing.assert_array_equal(numpy(unpatchify(cut, height, width, patch)), images)
    np.testing.assert_array_equal(picture(cut, height, width, patch), images)


def test_patch_embedding_is_a_strided_convolution():
    layer = PatchEmbedding(patch_size=3, hidden_size=5)
    layer.build((None, 6, 9, 2))
    draw_weights(layer)
    kernel, bias = (numpy(w) for w in layer.weights)
    images, convolved = draw(2, 6, 9, 2), np.zeros((2, 2, 3, 5))
    window = kernel.reshape(3, 3, 2, 5)
    for i in range(2):
        for j in range(3):
            part = images[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            convolved[:, i, j] = np.einsum("bpqc,pqcd->bd", part, window) + bias
    np.testing.assert_allclose(run(layer, images), convolved.reshape(2, 6, 5), atol=2e-6)


@pytest.mark.parametrize("shape", [(None, 6, 8, 1), (None, 8, 7, 1), (None, 8, 8)])
def test_patch_embedding_refuses_pictures_it_would_crop(shape):
    with pytest.raises(ValueError, match=r"patch_size=4|input_shape must be"):
        PatchEmbedding(patch_size=4, hidden_size=8).build(shape)


# Positions


@pytest.mark.parametrize(("rows", "columns", "width"), [(3, 3, 8), (2, 5, 12), (7, 1, 4)])
def test_positions_in_closed_form_with_the_column_first(rows, columns, width):
    found = sincos_positions(rows, columns, width)
    assert (found.shape, found.dtype) == ((rows * columns, width), np.float32)
    m = width // 2
    for token in range(rows * columns):
        row, column = divmod(token, columns)
        for part, place in ((found[token, :m], column), (found[token, m:], row)):
            angle = [place * 10000 ** (-i / (m / 2)) for i in range(m // 2)]
            np.testing.assert_allclose(part, [*np.sin(angle), *np.cos(angle)], atol=1e-7)


def test_positions_tell_all_tokens_apart():
    found = sincos_positions(16, 16, 32)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    assert distances[~np.eye(256, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("width", [2, 6, 9])
def test_positions_need_four_numbers_at_a_time(width):
    with pytest.raises(ValueError, match=f"multiple of 4.*hidden_size={width}"):
        sincos_positions(2, 2, width)


# The block


def make_block(width=12, num_heads=3, conditioning=12, **options):
    layer = AdaLNBlock(num_heads, **options)
    layer.build((None, 5, width), (None, conditioning))
    return layer


def test_a_new_block_is_exactly_the_identity():
    tokens = draw(2, 5, 12)
    np.testing.assert_array_equal(run(make_block(), tokens, 100 * draw(2, 12)), tokens)


@pytest.mark.parametrize(("num_heads", "ratio", "conditioning"), [(3, 4.0, 12), (1, 2.5, 7)])
def test_a_block_is_its_formula(num_heads, ratio, conditioning):
    layer = draw_weights(make_block(12, num_heads, conditioning, mlp_ratio=ratio))
    weights = {f"block_0/{k}": v.astype("float64") for k, v in weights_of(layer).items()}
    assert weights["block_0/mlp/mlp_in/kernel"].shape == (12, int(12 * ratio))
    tokens, condition = draw(2, 5, 12), draw(2, conditioning, seed=1)
    expected = block(weights, "block_0", tokens, condition, num_heads)
    np.testing.assert_allclose(run(layer, tokens, condition), expected, atol=5e-6)


def test_a_block_knows_no_order_of_tokens():
    layer = draw_weights(make_block())
    tokens, condition, order = draw(2, 5, 12), draw(2, 12, seed=1), [3, 0, 4, 1, 2]
    permuted = run(layer, tokens[:, order], condition)
    np.testing.assert_allclose(permuted, run(layer, tokens, condition)[:, order], atol=2e-6)
    assert np.abs(permuted - tokens[:, order]).max() > 0.1


def test_a_sample_sees_its_own_tokens_and_condition_only():
    layer = draw_weights(make_block())
    tokens, condition = draw(3, 5, 12), draw(3, 12, seed=1)
    together = run(layer, tokens, condition)
    alone = run(layer, tokens[1:2], condition[1:2])
    np.testing.assert_allclose(alone[0], together[1], atol=2e-6)


@pytest.mark.parametrize("num_heads", [0, 5])
def test_heads_have_to_divide_the_width(num_heads):
    with pytest.raises(ValueError, match=f"hidden_size=12, num_heads={num_heads}"):
        make_block(num_heads=num_heads)


# The last layer


def test_a_new_final_layer_gives_exactly_zero():
    layer = FinalLayer((4, 6, 3), patch_size=2)
    output = numpy(layer(draw(2, 6, 8), draw(2, 8)))
    np.testing.assert_array_equal(output, np.zeros((2, 4, 6, 3)))


def test_the_final_layer_puts_each_token_on_its_patch():
    layer = FinalLayer((4, 6, 1), patch_size=2)
    layer.build((None, 6, 8), (None, 8))
    draw_weights(layer)
    tokens, condition = draw(1, 6, 8), draw(1, 8)
    before = run(layer, tokens, condition)
    tokens[:, 4] = draw(8, seed=3)  # row 1, column 1
    moved = (run(layer, tokens, condition) != before)[0, :, :, 0]
    expected = np.zeros((4, 6), bool)
    expected[2:4, 2:4] = True
    np.testing.assert_array_equal(moved, expected)


def test_token_dense_is_dense():
    tokens = draw(2, 3, 4, 5)
    ours, dense = TokenDense(6), keras.layers.Dense(6)
    ours.build(tokens.shape)
    dense.build(tokens.shape)
    dense.set_weights(ours.get_weights())
    np.testing.assert_allclose(run(ours, tokens), run(dense, tokens), atol=1e-6)


# Each as a Keras layer

CASES = [
    (PatchEmbedding(2, 8), [(4, 6, 3)], (6, 8)),
    (SelfAttention(2), [(5, 8)], (5, 8)),
    (AdaLNBlock(2, mlp_ratio=2.0), [(5, 8), (8,)], (5, 8)),
    (AdaLNBlock(2), [(5, 8), (3,)], (5, 8)),
    (FinalLayer((4, 2, 3), 2), [(2, 8), (8,)], (4, 2, 3)),
    (TokenDense(3), [(5, 8)], (5, 3)),
]


def functional(layer, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(*inputs))


def batch(shapes):
    return [draw(2, *shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("layer", "shapes", "expected"), CASES)
def test_shapes_are_known_before_anything_is_computed(layer, shapes, expected):
    again = type(layer).from_config(layer.get_config())
    assert again.compute_output_shape(*[(None, *shape) for shape in shapes]) == (None, *expected)
    assert again(*batch(shapes)).shape == (2, *expected)
    assert functional(layer, shapes).output_shape == (None, *expected)


@pytest.mark.parametrize(("layer", "shapes", "expected"), CASES)
def test_layers_come_back_from_their_configuration_and_file(layer, shapes, expected, tmp_path):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    model = draw_weights(functional(again, shapes))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(batch(shapes))), numpy(model(batch(shapes))))


def test_layers_stand_in_a_sequential_model_and_learn():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            PatchEmbedding(2, 8),
            SelfAttention(2),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x = draw(32, 4, 4, 1)
    y = x.mean(axis=(1, 2))
    history = model.fit(x, y, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize(("layer", "shapes", "expected"), CASES)
def test_layers_follow_their_dtype_policy(layer, shapes, expected, policy):
    again = type(layer).from_config({**layer.get_config(), "dtype": policy})
    output = again(*batch(shapes))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    stored = {keras.backend.standardize_dtype(w.dtype) for w in again.weights}
    assert stored == {"float32" if policy.startswith("mixed") else "bfloat16"}
