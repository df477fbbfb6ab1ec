"""The operations of a network, fused and plain: values, gradients, one step of Adam.

What each should give is written here in numpy float64; a gradient is held against central
differences of that. It is read off from what one step of gradient descent does to the inputs.
"""

import shutil
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import backend
from keras_dit.backend.kernels.choice import REFUSED, choose

if backend.BACKEND != "torch":
    from keras_dit.backend.kernels import xla

EPSILON = 1e-6


def attention(q, k, v):
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def linear(x, kernel, bias):
    return x @ kernel + bias


def linear_gelu(x, kernel, bias):
    y = x @ kernel + bias
    return 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))


def multiply_add(x, factor, summand):
    return x * factor + summand


def modulated_layer_norm(x, shift, scale):
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    return normal * (1 + scale) + shift


def ours_layer_norm(x, shift, scale):
    return backend.modulated_layer_norm(x, shift, scale, EPSILON)


def layer_norm(x, gain, bias):
    return modulated_layer_norm(x, bias, gain - 1)


def rms_norm(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gain


MASK = np.array([[True, True, False, True], [False, True, True, False]])


def masked_attention(q, k, v):
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits) * MASK[:, None, None]
    return weights / weights.sum(-1, keepdims=True) @ v


def in_blocks(q, k, v, mask=None):
    """Two queries at a time, where attention of many goes so."""
    if backend.BACKEND == "torch":  # its own operation does by itself
        return backend.attention(q, k, v, mask)
    with mock.patch.object(xla, "FEW", 2):
        return backend.attention(q, k, v, mask)


CASES = {
    "attention": (backend.attention, attention, [(2, 3, 5, 4)] * 3),
    "masked_attention": (
        lambda q, k, v: backend.attention(q, k, v, ops.convert_to_tensor(MASK)),
        masked_attention,
        [(2, 3, 5, 4), (2, 3, 4, 4), (2, 3, 4, 4)],
    ),
    "attention_in_blocks": (in_blocks, attention, [(2, 3, 5, 4)] * 3),
    "masked_attention_in_blocks": (
        lambda q, k, v: in_blocks(q, k, v, ops.convert_to_tensor(MASK)),
        masked_attention,
        [(2, 3, 5, 4), (2, 3, 4, 4), (2, 3, 4, 4)],
    ),
    "linear": (backend.linear, linear, [(6, 5), (5, 7), (7,)]),
    "linear_gelu": (backend.linear_gelu, linear_gelu, [(6, 5), (5, 7), (7,)]),
    "linear_without_bias": (
        lambda x, kernel: backend.linear(x, kernel, None),
        lambda x, kernel: x @ kernel,
        [(6, 5), (5, 7)],
    ),
    "multiply_add": (backend.multiply_add, multiply_add, [(2, 3, 4), (2, 1, 4), (2, 3, 4)]),
    "modulated_layer_norm": (
        ours_layer_norm,
        modulated_layer_norm,
        [(2, 3, 8), (2, 1, 8), (2, 1, 8)],
    ),
    "layer_norm": (
        lambda *tensors: backend.layer_norm(*tensors, EPSILON),
        layer_norm,
        [(2, 3, 8), (8,), (8,)],
    ),
    "rms_norm": (lambda *tensors: backend.rms_norm(*tensors, EPSILON), rms_norm, [(2, 3, 8), (8,)]),
}
case = pytest.mark.parametrize("name", CASES)


def arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


class Descent(keras.Model):
    """Its weights are the inputs of a function, its loss the sum of upstream times the output."""

    def __init__(self, function, inputs, upstream):
        super().__init__()
        self.function, self.upstream = function, ops.convert_to_tensor(upstream)
        self.inputs_held = [
            self.add_weight(shape=x.shape, initializer="zeros", name=f"input_{i}")
            for i, x in enumerate(inputs)
        ]
        for weight, x in zip(self.inputs_held, inputs, strict=True):
            weight.assign(x)

    def call(self, x):
        return x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        inputs = [ops.convert_to_tensor(weight) for weight in self.inputs_held]
        return ops.sum(self.function(*inputs) * self.upstream)


def gradients(function, inputs, upstream, jit_compile=None):
    model = Descent(function, inputs, upstream)
    if jit_compile is None:
        jit_compile = backend.jit_compile_training()
    model.compile(keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    model.train_on_batch(np.zeros((1, 1), "float32"))
    after = [ops.convert_to_numpy(weight) for weight in model.inputs_held]
    return [before - now for before, now in zip(inputs, after, strict=True)]


def central_differences(function, inputs, upstream, index):
    inputs = [x.astype("float64") for x in inputs]
    result = np.zeros_like(inputs[index])
    for position in np.ndindex(result.shape):
        values = []
        for shift in (1e-5, -1e-5):
            moved = [x.copy() for x in inputs]
            moved[index][position] += shift
            values.append((function(*moved) * upstream).sum())
        result[position] = (values[0] - values[1]) / 2e-5
    return result


@pytest.mark.parametrize("jit_compile", ["auto", False])
@case
def test_values(name, jit_compile):
    ours, plain, shapes = CASES[name]
    inputs = arrays(shapes)
    run = backend.compile_inference(lambda *tensors: ours(*tensors), jit_compile=jit_compile)
    expected = plain(*(x.astype("float64") for x in inputs))
    for _ in range(4):  # torch changes its form after the second
        output = ops.convert_to_numpy(run(*map(ops.convert_to_tensor, inputs)))
        np.testing.assert_allclose(output, expected, rtol=2e-6, atol=2e-6)


def in_plain_form(function):
    def run(*tensors):
        with backend.plain_kernels():
            return function(*tensors)

    return run


@case
def test_the_plain_form_has_these_values_and_gradients_too(name):
    ours, plain, shapes = CASES[name]
    inputs, ours = arrays(shapes), in_plain_form(ours)
    output = ops.convert_to_numpy(ours(*map(ops.convert_to_tensor, inputs)))
    expected = plain(*(x.astype("float64") for x in inputs))
    np.testing.assert_allclose(output, expected, rtol=2e-6, atol=2e-6)
    upstream = arrays([output.shape], seed=1)[0]
    for index, found in enumerate(gradients(ours, inputs, upstream)):
        slopes = central_differences(plain, inputs, upstream, index)
        np.testing.assert_allclose(found, slopes, rtol=2e-5, atol=2e-5)


def forward_derivative(function, inputs, directions):
    inputs, directions = (tuple(map(ops.convert_to_tensor, x)) for x in (inputs, directions))
    if backend.BACKEND == "jax":
        import jax

        return jax.jvp(function, inputs, directions)[1]
    if backend.BACKEND == "torch":
        import torch

        return torch.func.jvp(function, inputs, directions)[1]
    import tensorflow as tf

    with tf.autodiff.ForwardAccumulator(inputs, directions) as accumulator:
        return accumulator.jvp(function(*inputs))


@case
def test_the_plain_form_has_a_forward_derivative(name):
    """Against central differences of the float64 formula along a direction."""
    ours, plain, shapes = CASES[name]
    inputs, directions = arrays(shapes), arrays(shapes, seed=2)
    found = ops.convert_to_numpy(forward_derivative(in_plain_form(ours), inputs, directions))
    ends = [
        plain(*(x.astype("float64") + h * d for x, d in zip(inputs, directions, strict=True)))
        for h in (1e-5, -1e-5)
    ]
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-5, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_form_that_the_processor_refuses_gives_way_to_the_plain_one(dtype):
    """It is refused in the gradient alone, and for one dtype: as oneDNN does on some processors."""
    calls = []

    @ops.custom_gradient
    def refused(x):
        calls.append(x)

        def gradient(*inputs, upstream=None):
            upstream = inputs[-1] if upstream is None else upstream  # torch gives both
            if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
                raise RuntimeError("could not create a primitive descriptor")
            return 2.0 * upstream

        return 2.0 * x, gradient

    operation = choose(lambda x: x + 1.0, refused, (4, 4))
    for _ in range(3):
        output = operation(ops.zeros((2, 2), dtype))
    expected = 1.0 if dtype == "bfloat16" else 0.0
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(output, "float32")), expected)
    assert len(calls) < 6  # tried once, not at each call


@pytest.mark.skipif(
    backend.BACKEND == "torch" and not shutil.which("g++"), reason="torch.compile needs a compiler"
)
def test_gradients_through_the_backends_compiler():
    """torch.compile puts in a product of oneDNN that asks for constant weights."""
    inputs = arrays([(6, 5), (5, 7), (7,)])
    upstream = arrays([(6, 7)], seed=1)[0]
    for index, found in enumerate(gradients(backend.linear_gelu, inputs, upstream, True)):
        expected = central_differences(linear_gelu, inputs, upstream, index)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@case
def test_no_form_is_refused_for_another_reason(name, dtype):
    """Such as a mistake in it: these run here, or raise what a processor that refuses them does."""
    ours, _, shapes = CASES[name]
    ours(*(ops.cast(x, dtype) for x in arrays(shapes)))
    for (function, tried), error in REFUSED.items():
        assert "primitive" in str(error or "primitive"), (function, tried)


@case
def test_gradients(name):
    ours, plain, shapes = CASES[name]
    inputs = arrays(shapes)
    upstream = arrays([plain(*inputs).shape], seed=1)[0]
    for index, found in enumerate(gradients(ours, inputs, upstream)):
        expected = central_differences(plain, inputs, upstream, index)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.skipif(backend.BACKEND != "torch", reason="torch alone has products of two libraries")
@pytest.mark.parametrize("name", ["linear", "linear_gelu"])
def test_values_and_gradients_hold_on_a_processor_where_mkl_is_slow(name, monkeypatch):
    monkeypatch.setattr("keras_dit.backend.kernels.torch_forms._mkl_is_slow", lambda: True)
    test_values(name, "auto")
    test_gradients(name)


@case
def test_bfloat16_keeps_its_dtype_and_its_precision(name):
    ours, plain, shapes = CASES[name]
    inputs = [ops.cast(x, "bfloat16") for x in arrays(shapes)]
    output = backend.compile_inference(lambda *tensors: ours(*tensors))(*inputs)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    expected = plain(*(ops.convert_to_numpy(ops.cast(x, "float32")) for x in inputs))
    output = ops.convert_to_numpy(ops.cast(output, "float32"))
    np.testing.assert_allclose(output, expected, rtol=2e-2, atol=4e-2)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("attention", [(1, 2, 16, 8)] * 3),
        ("linear", [(16, 12), (12, 24), (24,)]),
        ("linear_gelu", [(16, 12), (12, 24), (24,)]),
    ],
)
def test_gradients_in_bfloat16(name, shapes):
    """XLA has products of its own for bfloat16, from some size on and in some layouts."""
    ours, plain, _ = CASES[name]

    def in_bfloat16(*tensors):
        return ops.cast(ours(*(ops.cast(x, "bfloat16") for x in tensors)), "float32")

    rounded = (ops.cast(ops.cast(x, "bfloat16"), "float32") for x in arrays(shapes))
    inputs = [ops.convert_to_numpy(x) for x in rounded]
    upstream = arrays([plain(*inputs).shape], seed=1)[0]
    for index, found in enumerate(gradients(in_bfloat16, inputs, upstream)):
        expected = central_differences(plain, inputs, upstream, index)
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        assert error < 2.0**-7  # bfloat16 rounds by up to 2⁻⁹


@pytest.mark.skipif(backend.BACKEND == "torch", reason="its fast products give bfloat16")
@pytest.mark.parametrize("leading", [(), (2, 3)])
@pytest.mark.parametrize("transpose_y", [False, True])
def test_product_of_bfloat16_is_not_rounded_to_it(transpose_y, leading):
    x, y = (ops.cast(a, "bfloat16") for a in arrays([(*leading, 16, 32), (*leading, 32, 8)]))
    x_wide, y_wide = (ops.convert_to_numpy(ops.cast(a, "float32")) for a in (x, y))
    y = ops.swapaxes(y, -1, -2) if transpose_y else y
    run = backend.compile_inference(lambda x, y: backend.product(x, y, transpose_y))
    expected = np.matmul(x_wide, y_wide)
    np.testing.assert_allclose(ops.convert_to_numpy(run(x, y)), expected, rtol=1e-5, atol=1e-5)


def shapes_of_gradient(tokens, masked):
    """The shapes of all that is computed for attention and its gradient, as a text."""
    q = ops.ones((1, 2, tokens, 4))
    mask = ops.ones((1, tokens), "bool") if masked else None

    def loss(q):
        return ops.sum(ops.square(backend.attention(q, q, q, mask)))

    if backend.BACKEND == "jax":
        import jax

        return str(jax.make_jaxpr(jax.grad(loss))(q))
    import tensorflow as tf

    program = tf.function(lambda q: tf.gradients(loss(q), q), autograph=False)
    graph = program.get_concrete_function(q).graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    shapes = [one for node in nodes for one in node.attr["_output_shapes"].list.shape]
    return " ".join(str([axis.size for axis in shape.dim]) for shape in shapes).replace(" ", "")


@pytest.mark.skipif(backend.BACKEND == "torch", reason="an operation of its own")
@pytest.mark.parametrize("masked", [False, True])
def test_of_many_tokens_there_is_no_matrix_of_all_by_all(masked):
    many = xla.FEW + 44
    assert f"{xla.FEW},{xla.FEW}]" in shapes_of_gradient(xla.FEW, masked)
    assert f"{many},{many}]" not in shapes_of_gradient(many, masked)
    assert f"{many // 2},{many}]" in shapes_of_gradient(many, masked)


def test_attention_of_large_logits_is_finite():
    q = ops.convert_to_tensor(arrays([(1, 1, 4, 4)])[0] * 1e3)
    output = ops.convert_to_numpy(backend.attention(q, q, q))
    assert np.isfinite(output).all()


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.AdamW])
@pytest.mark.parametrize("excluded", [[], ["bias"], ["kernel", "bias"]])
def test_fused_steps_are_those_of_the_equations(optimizer, excluded):
    start, pushes = arrays([(5, 3), (3,)]), arrays([(5, 3), (3,)] * 4, seed=1)
    made = optimizer(0.01, weight_decay=0.1)
    variables = [keras.Variable(start[0], name="kernel"), keras.Variable(start[1], name="bias")]
    made.exclude_from_weight_decay(var_names=excluded)
    made.build(variables)
    for pair in zip(pushes[::2], pushes[1::2], strict=True):
        backend.apply_gradients(made, [ops.convert_to_tensor(push) for push in pair], variables)
    for which, name in enumerate(["kernel", "bias"]):
        decay = 0.0 if name in excluded else 0.1
        w, m, v = start[which].astype("float64"), 0.0, 0.0
        for step, push in enumerate(pushes[which::2], start=1):
            w = w - decay * 0.01 * w
            m, v = 0.9 * m + 0.1 * push, 0.999 * v + 0.001 * push.astype("float64") ** 2
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            w = w - rate * m / (np.sqrt(v) + 1e-7)
        found = ops.convert_to_numpy(variables[which])
        np.testing.assert_allclose(found, w, rtol=1e-6, atol=1e-6)


def test_averages_move_by_the_rate():
    values, goals = arrays([(3, 2), (4,)]), arrays([(3, 2), (4,)], seed=1)
    averages, weights = map(list, (map(keras.Variable, values), map(keras.Variable, goals)))
    backend.move_averages(averages, weights, ops.convert_to_tensor(0.25))
    for average, value, goal in zip(averages, values, goals, strict=True):
        np.testing.assert_allclose(average.numpy(), 0.75 * value + 0.25 * goal, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16", "uint8", "int32"])
def test_a_fingerprint_is_the_sum_of_the_bits(dtype):
    """So it is the same on every backend, and changes with the last bit of one number."""
    numbers = np.random.default_rng(0).integers(0, 100, (7, 33)) / (4 if "float" in dtype else 1)
    variable = keras.Variable(numbers, dtype=dtype, trainable=False)
    bits = numbers.astype("float32").view("int32") >> 16  # of a bfloat16, exact for such numbers
    if dtype != "bfloat16":
        bits = numbers.astype(dtype)
        bits = bits.view(f"int{8 * bits.dtype.itemsize}") if "float" in dtype else bits
    assert backend.fingerprints([variable]) == [int(bits.astype("int32").sum()) % 2**32]
    numbers[3, 5] += 1
    changed = keras.Variable(numbers, dtype=dtype, trainable=False)
    assert backend.fingerprints([changed]) != backend.fingerprints([variable])


def test_the_norm_is_that_of_all_gradients_together():
    parts = [np.random.default_rng(n).standard_normal((5, n + 1)) for n in range(3)]
    given = [None, *(ops.convert_to_tensor(part, "float32") for part in parts)]
    expected = np.sqrt(sum((part**2).sum() for part in parts))
    np.testing.assert_allclose(ops.convert_to_numpy(backend.norm(given)), expected, rtol=1e-6)
    assert float(backend.norm([None])) == 0.0
