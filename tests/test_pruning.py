"""Laws of adapt.prune: what is kept, by which score, and that it is what it was."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, run

import keras_dit
from keras_dit import adapt, backend
from keras_dit.adapt import BlockInfluence, FirstOrder, Magnitude, prune
from keras_dit.layers import (
    AdaLNBlock,
    CrossAttention,
    InContextAttention,
    RMSNorm,
    Rotary,
    SelfAttention,
    SwiGLU,
)

SHAPE, WIDTH, HEADS, UNITS, DEPTH = (4, 4, 1), 16, 4, 64, 2
GIVEN = (
    np.random.default_rng(3).normal(size=(2, *SHAPE)).astype("float32"),
    np.array([20.0, 700.0], "float32"),
    np.array([0, 2], "int32"),
)
PARTS = {
    "plain": None,
    "modern": AdaLNBlock(
        attention=SelfAttention(HEADS, qk_norm=RMSNorm(), positions=Rotary()),
        mlp=SwiGLU(6.0),
        norm=RMSNorm(),
    ),
    "told": AdaLNBlock(
        HEADS, attention=InContextAttention(HEADS, qkv_bias=False)
    ),
}  # fmt: skip


def network(block="plain", seed=0, depth=DEPTH, **settings):
    block = PARTS[block]
    net = keras_dit.DiTModel(SHAPE, 2, WIDTH, depth, HEADS, 2, block=block, **settings)
    return draw_weights(net, 0.3, seed)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def zero(variable, *places):
    """Put 0 into some places of a variable."""
    array = np.array(numpy(variable))
    for place in places:
        array[place] = 0.0
    variable.assign(array)


def silence(net, heads=(), units=(), blocks=()):
    """Let heads and units of each block, and whole blocks, add nothing."""
    for block in net.blocks:
        head = block.attention.projection.kernel.shape[0] // HEADS
        zero(block.attention.projection.kernel, *(slice(h * head, (h + 1) * head) for h in heads))
        zero(block.mlp.mlp_out.kernel, list(units))
    for i in blocks:
        for variable in net.blocks[i].modulation.weights:
            gates = [slice(part * WIDTH, (part + 1) * WIDTH) for part in (2, 5)]
            zero(variable, *((..., gate) for gate in gates))
    return net


@pytest.mark.parametrize("block", ["plain", "modern"])
def test_what_adds_nothing_is_left_out_without_a_trace(block):
    net = network(block)
    units = net.blocks[0].mlp.mlp_out.kernel.shape[0]
    gone = np.arange(units) % 3 == 1
    silence(net, heads=(0, 2), units=np.flatnonzero(gone), blocks=(1,))
    before, weights = run(net, *GIVEN), net.get_weights()
    smaller = prune(net, heads=2, mlp=int(units - gone.sum()), depth=1)
    np.testing.assert_allclose(run(smaller, *GIVEN), before, atol=1e-5)
    assert len(smaller.blocks) == 1
    assert smaller.blocks[0].attention.qkv.kernel.shape == (WIDTH, 3 * WIDTH // 2)
    assert smaller.count_params() < net.count_params()
    for one, other in zip(weights, net.get_weights(), strict=True):  # it stays as it is
        np.testing.assert_array_equal(one, other)


def test_nothing_pruned_is_the_same_network():
    net = network("modern")
    same = prune(net, heads=HEADS, mlp=net.blocks[0].mlp.mlp_out.kernel.shape[0], depth=DEPTH)
    for old, new in zip(net.weights, same.weights, strict=True):
        np.testing.assert_array_equal(numpy(old), numpy(new))


def test_each_block_keeps_its_own_best_in_their_order():
    """The output is that of the whole network whose other heads and units add nothing."""
    net = network()
    score = Magnitude()
    heads, units = score.heads(net), score.units(net)
    smaller = prune(net, heads=3, mlp=40)
    for block, of_heads, of_units in zip(net.blocks, heads, units, strict=True):
        lost = np.argsort(of_heads)[:1], np.argsort(of_units)[: UNITS - 40]
        head = WIDTH // HEADS
        rows = [slice(h * head, (h + 1) * head) for h in lost[0]]
        zero(block.attention.projection.kernel, *rows)
        zero(block.mlp.mlp_out.kernel, lost[1])
    assert len({int(np.argmin(of_heads)) for of_heads in heads}) > 1  # not the same one in each
    np.testing.assert_allclose(run(smaller, *GIVEN), run(net, *GIVEN), atol=1e-5)


@pytest.mark.parametrize("units", [1, 29, 57])
@pytest.mark.parametrize("block", ["plain", "modern"])
def test_any_number_of_units_is_had(block, units):
    smaller = prune(network(block), mlp=units)
    assert smaller.blocks[0].mlp.mlp_out.kernel.shape == (units, WIDTH)


def test_magnitudes_are_products_of_two_norms():
    net = network("told", conditions={"words": keras_dit.conditions.Tokens(6, 3)})
    block = net.blocks[1]
    scores = Magnitude().heads(net)[1], Magnitude().units(net)[1]
    qkv, head = numpy(block.attention.qkv.kernel), WIDTH // HEADS
    out = numpy(block.attention.projection.kernel)
    for h in range(HEADS):
        at = slice(h * head, (h + 1) * head)
        expected = np.linalg.norm(qkv[:, 2 * WIDTH :][:, at]) * np.linalg.norm(out[at])
        assert scores[0][h] == pytest.approx(expected, rel=1e-5)
    into = np.vstack([numpy(block.mlp.mlp_in.kernel), numpy(block.mlp.mlp_in.bias)])
    expected = np.linalg.norm(into, axis=0) * np.linalg.norm(
        numpy(block.mlp.mlp_out.kernel), axis=1
    )
    np.testing.assert_allclose(scores[1], expected, rtol=1e-5)
    smaller = prune(net, heads=1, depth=1)  # parts without biases, told tokens
    assert smaller.blocks[0].attention.qkv.kernel.shape == (WIDTH, 3 * head)


def loss_of(net):
    return lambda: ops.mean(ops.square(net(*map(ops.convert_to_tensor, GIVEN)) - 0.3))


def test_the_first_order_is_the_slope_of_the_loss():
    net = network(seed=4, depth=1)
    loss = loss_of(net)
    score = FirstOrder(loss)
    heads, units, blocks = score.heads(net), score.units(net), score.blocks(net)
    block, head = net.blocks[0], WIDTH // HEADS

    def slope(places):
        """Of the loss as these places of variables shrink to nothing."""
        values = []
        for scale in (1.01, 0.99):
            old = [(variable, np.array(numpy(variable))) for variable, _ in places]
            for variable, place in places:
                array = np.array(numpy(variable))
                array[place] *= scale
                variable.assign(array)
            values.append(float(numpy(loss())))
            for variable, array in old:
                variable.assign(array)
        return abs(values[0] - values[1]) / 0.02

    at = slice(2 * head, 3 * head)
    expected = slope([(block.attention.projection.kernel, at)])
    assert heads[0][2] == pytest.approx(expected, rel=0.02)
    assert units[0][5] == pytest.approx(slope([(block.mlp.mlp_out.kernel, 5)]), rel=0.02)
    steer = np.repeat(np.arange(6), WIDTH)
    gates = [(v, (..., np.isin(steer, (2, 5)))) for v in block.modulation.weights]
    assert blocks[0] == pytest.approx(slope(gates), rel=0.02)


def test_the_first_order_of_a_diffusion_s_loss_draws_anew():
    diffusion = keras_dit.Diffusion(network(depth=1), ema=None)
    x, y = GIVEN[0], ops.convert_to_tensor(GIVEN[2] % 2)
    loss = []

    def drawn():
        value = diffusion.compute_loss(x, y)
        loss.append(value)
        return value

    once = FirstOrder(drawn, diffusion.variables).units(diffusion.network)[0]
    other = FirstOrder(drawn, diffusion.variables).units(diffusion.network)[0]
    assert np.isfinite(once).all()
    assert not np.allclose(once, other)
    silenced = silence(network(depth=1), units=(7,))
    assert FirstOrder(loss_of(silenced)).units(silenced)[0][7] == 0.0


def test_influence_is_how_far_a_block_turns_tokens():
    net = silence(network(), blocks=(1,))
    score = BlockInfluence(*GIVEN)
    found = score.blocks(net)
    assert found[1] == pytest.approx(0.0, abs=1e-6)
    tokens, context = net.embed(*map(ops.convert_to_tensor, GIVEN))
    after = numpy(net.run_blocks(net.blocks[:1], tokens, context))
    tokens = numpy(tokens)
    cosine = (tokens * after).sum(-1)
    cosine /= np.linalg.norm(tokens, axis=-1) * np.linalg.norm(after, axis=-1)
    assert found[0] == pytest.approx(1 - cosine.mean(), abs=1e-5)
    smaller = prune(net, depth=1, block_score=score)
    for old, new in zip(net.blocks[0].weights, smaller.blocks[0].weights, strict=True):
        np.testing.assert_array_equal(numpy(old), numpy(new))


def test_a_pruned_network_trains_and_is_saved(tmp_path):
    process = keras_dit.processes.named("flow")
    smaller = prune(network("modern"), heads=3, mlp=20, depth=1)
    diffusion = keras_dit.Diffusion(smaller, process=process)
    diffusion.compile(keras.optimizers.Adam(1e-3), jit_compile=backend.BACKEND == "jax")
    history = diffusion.fit(GIVEN[0] / 4, np.array([0, 1]), batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    diffusion.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").network
    assert loaded.count_params() == smaller.count_params()
    for one, other in zip(loaded.get_weights(), smaller.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert keras_dit.networks.multiply_adds(loaded.get_config()) < keras_dit.networks.multiply_adds(
        network("modern").get_config()
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prune(network(), heads=5), "heads must be how many are kept, from 1 to 4"),
        (lambda: prune(network(), mlp=0), "mlp must be how many are kept, from 1 to 64"),
        (lambda: prune(network(), depth=1.5), "depth must be how many are kept, from 1 to 2"),
        (lambda: prune("dit_s_2"), "network must be a DiTModel"),
        (lambda: prune(network(), heads=2, score=BlockInfluence(*GIVEN)), "says nothing of heads"),
        (lambda: SelfAttention(2, head_size=0).build((None, 4, 8)), "head_size=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_heads_of_any_width_attend():
    """With one head of the tokens' width it is the attention that has no such argument."""
    tokens = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    plain, told = SelfAttention(2), SelfAttention(2, head_size=4)
    outputs = []
    for layer in (plain, told):
        layer.build((None, 5, 8))
        draw_weights(layer)
        outputs.append(run(layer, tokens))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)
    cross = CrossAttention(3, head_size=2)
    assert cross(tokens, keras_dit.conditions.Context(tokens=tokens[:, :2])).shape == (2, 5, 8)
    assert CrossAttention.from_config(cross.get_config()).head_size == 2


def test_the_room_shows_it():
    assert {"prune", "Magnitude", "FirstOrder", "BlockInfluence"} <= set(adapt.__all__)
