"""Laws of the parts that a block is made of, and of blocks made of other parts."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import attention, dense, draw_weights, run, silu, weights_of

from keras_dit.layers import (
    MLP,
    AdaLNBlock,
    Context,
    CrossAttention,
    InContextAttention,
    LayerNorm,
    RMSNorm,
    Rotary,
    SelfAttention,
    SwiGLU,
    grid_positions,
)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def built(layer, *shapes):
    layer.build(*shapes)
    return draw_weights(layer)


def split_heads(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x):
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


# Norms


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms_are_their_formulas(kind, affine):
    layer = built(kind(1e-3, affine), (None, 5, 8))
    x = 3 * draw(2, 5, 8) + 1
    centred = x - x.mean(-1, keepdims=True) if kind is LayerNorm else x
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
    if affine:
        w = weights_of(layer)
        expected = expected * w["gain"] + w.get("bias", 0.0)
    assert len(layer.weights) == (0 if not affine else 2 if kind is LayerNorm else 1)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm(affine=True), RMSNorm(), RMSNorm(affine=False)])
def test_a_block_steers_any_norm(norm):
    block = AdaLNBlock(2, norm=norm)
    block.build((None, 5, 8), (None, 8))
    draw_weights(block)
    w = weights_of(block)
    x, vector = draw(2, 5, 8), draw(2, 8, seed=1)
    parts = np.split(dense(w, "modulation", silu(vector))[:, None], 6, axis=-1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts
    h = run(block.attention, run(block.attention_norm, x) * (1 + scale1) + shift1)
    expected = x + gate1 * h
    h = run(block.mlp, run(block.mlp_norm, expected) * (1 + scale2) + shift2)
    np.testing.assert_allclose(run(block, x, vector), expected + gate2 * h, atol=1e-5)


# MLPs


def test_an_mlp_with_another_activation():
    layer = built(MLP(2.0, activation="relu"), (None, 5, 8))
    w, x = weights_of(layer), draw(2, 5, 8)
    expected = dense(w, "mlp_out", np.maximum(dense(w, "mlp_in", x), 0))
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_swiglu_is_its_formula_with_the_parameters_of_an_mlp():
    layer = built(SwiGLU(4.0), (None, 5, 12))
    w, x = weights_of(layer), draw(2, 5, 12)
    gate, value = np.split(dense(w, "mlp_in", x), 2, axis=-1)
    np.testing.assert_allclose(run(layer, x), dense(w, "mlp_out", silu(gate) * value), atol=1e-5)
    kernels = [v for name, v in w.items() if name.endswith("kernel")]
    assert sum(v.size for v in kernels) == 2 * 12 * 48


# Rotary positions


def rotate(x, rows, columns, theta=10000.0):
    """Pair by pair as complex numbers, rows in the first half of a head."""
    quarter = x.shape[-1] // 4
    turned = np.empty(x.shape)
    for token in range(rows * columns):
        for i in range(2 * quarter):
            place = token // columns if i < quarter else token % columns
            angle = place * theta ** (-(i % quarter) / quarter)
            pair = (x[..., token, 2 * i] + 1j * x[..., token, 2 * i + 1]) * np.exp(1j * angle)
            turned[..., token, 2 * i], turned[..., token, 2 * i + 1] = pair.real, pair.imag
    return turned


def test_rotary_turns_pairs_by_row_and_column():
    x = draw(2, 3, 6, 8)
    found = run(Rotary(100.0), x, grid_positions(2, 3))
    np.testing.assert_allclose(found, rotate(x, 2, 3, 100.0), atol=1e-5)


def test_rotary_products_depend_on_distance_alone():
    q, k = (np.broadcast_to(draw(1, 1, 1, 8, seed=s), (1, 1, 2, 8)) for s in (0, 1))
    products = []
    for shift in (0.0, 5.0):
        places = np.array([[1.0, 2.0], [3.0, 7.0]], "float32") + shift
        turned = [run(Rotary(), x, places) for x in (q, k)]
        products.append(float((turned[0][0, 0, 0] * turned[1][0, 0, 1]).sum()))
    assert products[0] == pytest.approx(products[1], abs=1e-5)


def test_rotary_needs_positions_and_heads_of_fours():
    with pytest.raises(ValueError, match="need the tokens' positions"):
        Rotary()(draw(1, 1, 2, 8))
    with pytest.raises(ValueError, match="width 6"):
        SelfAttention(2, positions=Rotary()).build((None, 4, 12))


# Attention


def test_self_attention_with_norms_and_positions_is_its_formula():
    layer = SelfAttention(2, qk_norm=RMSNorm(), positions=Rotary(), qkv_bias=False)
    built(layer, (None, 6, 16))
    w, x = weights_of(layer), draw(2, 6, 16).astype("float64")
    assert "qkv/bias" not in w
    q, k, v = (split_heads(p, 2) for p in np.split(x @ w["qkv/kernel"], 3, axis=-1))
    q, k = (
        rotate(p / np.sqrt((p**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}_norm/gain"], 2, 3)
        for p, name in ((q, "query"), (k, "key"))
    )
    expected = dense(w, "projection", join_heads(attention(q, k, v)))
    found = run(lambda x, p: layer(x, positions=p), x.astype("float32"), grid_positions(2, 3))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def seen(context, count):
    """The tokens of one sample's context that its mask says are there."""
    mask = np.ones(context.tokens.shape[:2], bool) if context.mask is None else context.mask
    return context.tokens[count][mask[count]][None]


CONTEXTS = {
    "all": Context(tokens=draw(2, 4, 12, seed=1)),
    "some": Context(
        tokens=draw(2, 4, 12, seed=1), mask=np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
    ),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_cross_attention_sees_the_tokens_that_are_there(name):
    context = CONTEXTS[name]
    layer = built(CrossAttention(2), (None, 6, 8), context._replace(tokens=(2, 4, 12), mask=None))
    w, x = weights_of(layer), draw(2, 6, 8)
    found = run(lambda x: layer(x, context), x)
    for i in range(2):
        k, v = np.split(dense(w, "key_value", seen(context, i)), 2, axis=-1)
        q = dense(w, "query", x[i : i + 1])
        mixed = join_heads(attention(*(split_heads(p, 2) for p in (q, k, v))))
        np.testing.assert_allclose(found[i], dense(w, "projection", mixed)[0], atol=1e-5)


@pytest.mark.parametrize("name", CONTEXTS)
def test_in_context_attention_is_that_of_the_joined_sequence(name):
    context = CONTEXTS[name]
    layer = built(InContextAttention(2, qk_norm=LayerNorm()), (None, 6, 12))
    plain = built(SelfAttention(2, qk_norm=LayerNorm()), (None, 6, 12))
    plain.set_weights(layer.get_weights())
    x = draw(2, 6, 12)
    found = run(lambda x: layer(x, context), x)
    for i in range(2):
        joined = np.concatenate([x[i : i + 1], seen(context, i)], axis=1)
        np.testing.assert_allclose(found[i], run(plain, joined)[0, :6], atol=1e-5)


def test_nothing_there_gives_nothing_and_no_nan():
    layer = built(CrossAttention(2), (None, 6, 8), (None, 4, 8))
    w, x = weights_of(layer), draw(2, 6, 8)
    context = Context(tokens=draw(2, 4, 8), mask=np.zeros((2, 4), bool))
    expected = np.broadcast_to(w["projection/bias"], x.shape)
    np.testing.assert_allclose(run(lambda x: layer(x, context), x), expected, atol=1e-6)


@pytest.mark.parametrize("layer", [CrossAttention(2), InContextAttention(2)])
def test_attention_to_a_context_without_tokens_is_refused(layer):
    layer.build((None, 6, 8))
    with pytest.raises(ValueError, match="needs a context with tokens"):
        layer(draw(2, 6, 8), Context(draw(2, 8)))


# Blocks of parts

BLOCKS = {
    "modern": {
        "norm": RMSNorm(),
        "attention": SelfAttention(2, qk_norm=RMSNorm(), positions=Rotary()),
        "mlp": SwiGLU(),
    },
    "cross": {"cross_attention": CrossAttention(2)},
    "in context": {"attention": InContextAttention(2), "norm": (LayerNorm(), RMSNorm())},
    "Keras's": {
        "norm": keras.layers.LayerNormalization(),
        "mlp": keras.layers.Dense(8, activation="relu"),
    },
}
blocks = pytest.mark.parametrize("name", BLOCKS)
CONTEXT = Context(draw(2, 8, seed=2), draw(2, 4, 8, seed=3), np.array([[1, 1, 0, 1]] * 2, bool))


@blocks
def test_a_new_block_of_any_parts_is_the_identity(name):
    block, tokens = AdaLNBlock(2, **BLOCKS[name]), draw(2, 6, 8)
    found = run(lambda x: block(x, CONTEXT, grid_positions(2, 3)), tokens)
    np.testing.assert_array_equal(found, tokens)
    assert block.sees_tokens == (name in ("cross", "in context"))


@blocks
def test_a_block_of_parts_comes_back_from_its_file(name, tmp_path):
    tokens, places = draw(2, 6, 8), np.broadcast_to(grid_positions(2, 3), (2, 6, 2))
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype) for x in (tokens, *CONTEXT)]
    block = AdaLNBlock(2, **BLOCKS[name])
    options = {"positions": ops.convert_to_tensor(places[0])} if name == "modern" else {}
    model = keras.Model(inputs, block(inputs[0], Context(*inputs[1:]), **options))
    draw_weights(model)
    expected = ops.convert_to_numpy(model([tokens, *CONTEXT]))
    assert np.abs(expected - tokens).max() > 0.1
    model.save(tmp_path / "block.keras")
    loaded = keras.saving.load_model(tmp_path / "block.keras")
    found = ops.convert_to_numpy(loaded([tokens, *CONTEXT]))
    np.testing.assert_array_equal(found, expected)


@blocks
def test_copies_share_nothing(name):
    first, second = (AdaLNBlock(2, **BLOCKS[name]) for _ in range(2))
    for block in (first, second):
        block.build((None, 6, 8), (None, 8))
    assert not {id(w) for w in first.weights} & {id(w) for w in second.weights}
    assert [w.path.partition("/")[2] for w in first.weights] == [
        w.path.partition("/")[2] for w in second.weights
    ]


def test_parts_follow_the_dtype_policy_of_their_block():
    block = AdaLNBlock(2, dtype="mixed_bfloat16", **BLOCKS["modern"])
    output = block(draw(2, 6, 8), draw(2, 8), grid_positions(2, 3))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    assert {layer.compute_dtype for layer in block._flatten_layers()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_heads must be given"),
        ({"num_heads": 2, "mlp": "swiglu"}, "mlp must be a Keras layer.*mlp='swiglu'"),
        ({"num_heads": 2, "norm": keras.layers.RMSNormalization}, "norm must be a Keras layer"),
    ],
)
def test_what_is_no_part_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdaLNBlock(**options)


def test_a_part_with_weights_is_refused():
    mlp = MLP()
    mlp.build((None, 6, 8))
    with pytest.raises(ValueError, match="without weights yet"):
        AdaLNBlock(2, mlp=mlp)


# Parts of one's own that cannot be copied


class Function(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)


class Plain(keras.layers.Layer):
    def __init__(self, scale):
        super().__init__()


class Lost(keras.layers.Layer):
    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (Function(lambda x: x), "must override .get_config"),
        (Plain(2.0), "unexpected keyword argument"),
        (Lost(2.0), "missing 1 required positional argument: 'scale'"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_part_that_cannot_be_copied_is_refused_by_name(part, why):
    message = rf"mlp is copied by its configuration.* Received: mlp=.*{why}"
    with pytest.raises(ValueError, match=message):
        AdaLNBlock(2, mlp=part)
