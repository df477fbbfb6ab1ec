"""Laws of keras_dit.Diffusion: the loss, the average, generating against float64, what it refuses.

Fitting from every kind of data, and files, are in test_diffusion_fit.py.
"""

import keras
import numpy as np
import pytest
from keras import ops
from reference import Reconstruction, dit, draw_weights, weights_of

import keras_dit
from keras_dit import backend, codecs, guidance, predictions, schedules, solvers
from keras_dit.networks import Network

TINY = {"input_shape": (4, 4, 1), "patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
FLOW = {"schedule": schedules.RectifiedFlow(), "prediction": predictions.FlowVelocity()}


def network(**changes):
    return draw_weights(keras_dit.DiTModel(**{**TINY, "num_classes": 3, **changes}))


def data(n=8, seed=0):
    generator = np.random.default_rng(seed)
    return np.tanh(generator.standard_normal((n, 4, 4, 1))).astype("float32"), np.arange(n) % 3


# The same picture everywhere: against a float64 network and sampler


def normal(seed, index):
    key = np.random.Philox(key=[seed, index], counter=[0, 0, 0, 0])
    return np.random.Generator(key).standard_normal((4, 4, 1), dtype="float32")


def linear_rates(t):
    """α, σ and the number for the network at t, float64."""
    k = round(1000 * t) - 1
    signal = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: k + 1])
    return np.sqrt(signal), np.sqrt(1 - signal), k


def cosine_rates(t):
    k = round(1000 * t) - 1
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    signal = np.prod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999)[: k + 1])
    return np.sqrt(signal), np.sqrt(1 - signal), k


def flow_rates(t):
    return 1 - t, t, 1000 * t


CASES = {
    "noise": (schedules.LinearBeta(), predictions.Noise(), linear_rates,
              lambda x, out, a, s: (x - s * out) / a),
    "v": (schedules.CosineBeta(), predictions.V(), cosine_rates,
          lambda x, out, a, s: a * x - s * out),
    "flow": (*FLOW.values(), flow_rates, lambda x, out, a, s: x - s * out),
}  # fmt: skip


def ddim(weights, labels, rates, to_x0, steps, scale, seed):
    """DDIM in float64, with classifier-free guidance of the network's output."""
    x = np.stack([normal(seed, i) for i in range(len(labels))]).astype("float64")
    times = np.linspace(1, 0, steps + 1)[:-1]
    x = rates(times[0])[1] * x
    for i, t in enumerate(times):
        alpha, sigma, k = rates(t)
        time, null = np.full(len(labels), k), np.full(len(labels), 3)
        output, free = (dit(weights, x, time, y, patch_size=2, num_heads=2) for y in (labels, null))
        output = free + scale * (output - free)
        x0 = to_x0(x, output, alpha, sigma)
        if i + 1 == steps:
            return x0
        alpha_next, sigma_next, _ = rates(times[i + 1])
        x = alpha_next * x0 + sigma_next * (x - alpha * x0) / sigma


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_those_of_a_float64_network_and_sampler(case):
    schedule, prediction, rates, to_x0 = CASES[case]
    diffusion = keras_dit.Diffusion(network(), schedule, prediction, codec=codecs.Latents(1.0))
    labels = np.array([0, 2, 1])
    pictures = diffusion.generate(labels, steps=5, guidance=guidance.ClassifierFree(2.5), seed=11)
    expected = ddim(weights_of(diffusion.network), labels, rates, to_x0, 5, scale=2.5, seed=11)
    # The noise prediction divides by α(1) = 0.006.
    tolerance = 1e-3 if case == "noise" else 5e-5
    np.testing.assert_allclose(pictures, expected, atol=tolerance * np.abs(expected).max())


# generate


@pytest.fixture(scope="module")
def flow():
    return keras_dit.Diffusion(network(), **FLOW, ema=0.9)


def test_a_picture_depends_on_seed_place_and_label_alone(flow):
    options = {"steps": 3, "solver": solvers.DDIM(eta=1.0)}
    labels = [0, 1, 2, 0]
    pictures = flow.generate(labels, **options)
    assert (pictures.shape, pictures.dtype) == ((4, 4, 4, 1), np.float32)
    assert pictures.min() >= -1
    assert pictures.max() <= 1
    in_twos = flow.generate(labels, batch_size=2, **options)
    np.testing.assert_allclose(in_twos, pictures, atol=1e-5)
    fewer = flow.generate(labels[:2], **options)
    np.testing.assert_allclose(fewer, pictures[:2], atol=1e-5)
    assert np.abs(flow.generate(labels, seed=1, **options) - pictures).max() > 0.1


def test_a_picture_does_not_depend_on_what_compiles(flow):
    options = {"labels": [0, 1], "steps": 6, "solver": solvers.DDIM(eta=1.0)}
    compiled = flow.generate(**options)
    np.testing.assert_allclose(flow.generate(**options, jit_compile=False), compiled, atol=1e-5)


class Mixed(Network):
    """A network in bfloat16 with a layer that computes in float32."""

    image_shape, output_channels = (4, 4, 1), 1

    def __init__(self):
        super().__init__(dtype="mixed_bfloat16", autocast=False)
        self.first = keras.layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")
        self.last = keras.layers.Conv2D(1, 3, padding="same", dtype="float32")
        self.first.build((None, 4, 4, 1))
        self.last.build((None, 4, 4, 4))
        self.built = True

    def call(self, x, t, y=None, training=None):
        return self.last(self.first(x))


def test_each_layer_finds_its_weights_in_its_own_dtype():
    network = Mixed()
    values = backend.compute_values(network, network.weights)
    dtypes = [keras.backend.standardize_dtype(value.dtype) for value in values]
    assert dtypes == ["bfloat16"] * 2 + ["float32"] * 2
    with backend.holding(network, values):
        output = network(data()[0], None)
        held = keras.backend.standardize_dtype(network.first.kernel.value.dtype)
    assert held == "bfloat16"  # not cast to the variable's own, to be cast back at each use
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (output, network(data()[0], None))))
    assert np.isfinite(keras_dit.Diffusion(network, **FLOW).generate(num_images=2, steps=4)).all()


def test_no_label_may_be_asked_for_in_three_ways(flow):
    by_number = flow.generate(num_images=2, steps=2)
    np.testing.assert_array_equal(flow.generate([None, None], steps=2), by_number)
    mixed = flow.generate([None, 1], steps=2)
    np.testing.assert_allclose(mixed[0], by_number[0], atol=1e-6)
    given = flow.generate(np.array([1, 1]), steps=2)
    np.testing.assert_allclose(mixed[1], given[1], atol=1e-6)
    assert np.abs(given - by_number).max() > 1e-3


def test_one_step_is_the_denoiser_of_pure_noise(flow):
    pictures = flow.generate(num_images=2, steps=1, seed=4)
    noise = np.stack([normal(4, 0), normal(4, 1)])
    velocity = dit(weights_of(flow.network), noise, [1000, 1000], [3, 3], 2, 2)
    np.testing.assert_allclose(pictures, np.clip(noise - velocity, -1, 1), atol=2e-5)


def test_the_codec_gives_the_range(flow):
    bytes_ = keras_dit.Diffusion(flow.network, **FLOW, codec=codecs.Pixels(0, 255))
    np.testing.assert_allclose(
        bytes_.generate([0, 1], steps=1), (flow.generate([0, 1], steps=1) + 1) * 127.5, atol=1e-2
    )


def test_the_callback_sees_every_step(flow):
    seen = []
    pictures = flow.generate(
        [0, 1, 2, 0], steps=4, batch_size=2, callback=lambda *a: seen.append(a)
    )
    assert [step for step, *_ in seen] == [0, 1, 2, 3] * 2
    np.testing.assert_allclose([t for _, t, *_ in seen[:4]], [1.0, 0.75, 0.5, 0.25])
    last = np.concatenate([seen[3][3], seen[7][3]])
    np.testing.assert_allclose(np.clip(last, -1, 1), pictures, atol=1e-6)
    np.testing.assert_array_equal(seen[0][2], np.stack([normal(0, 0), normal(0, 1)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 3]}, r"labels must lie in 0 ... 2. Received: 3 at index 1"),
        ({"labels": [-1]}, "Received: -1 at index 0"),
        ({"labels": [0.5]}, "list of integers"),
        ({"labels": [True]}, "list of integers"),
        ({"labels": []}, "there are 0 labels"),
        ({"labels": [0, 1], "num_images": 3}, "num_images=3, but there are 2 labels"),
        ({}, "give labels, or num_images of 1 or more. Received: num_images=None"),
        ({"num_images": 0}, "Received: num_images=0"),
        ({"num_images": 1, "steps": 0}, "steps must be an integer of 1 or more. Received: steps=0"),
        ({"num_images": 1, "steps": -3}, "Received: steps=-3"),
        ({"num_images": 1, "batch_size": 0}, "batch_size must be 1 or more"),
        ({"num_images": 1, "seed": -1}, "seed must be an integer of 0 or more"),
        ({"num_images": 1, "solver": "ddim"}, r"such as solvers.DDIM\(\). Received: solver='ddim'"),
        ({"num_images": 1, "jit_compile": "xla"}, "jit_compile must be True, .* Received: 'xla'"),
        ({"num_images": 1, "guidance": 3.0}, r"guidance.ClassifierFree\(3.0\). Received: .*=3.0"),
    ],
)
def test_generate_refuses_what_makes_no_run(flow, arguments, message):
    with pytest.raises(ValueError, match=message):
        flow.generate(**arguments)


def test_a_table_has_so_many_steps():
    diffusion = keras_dit.Diffusion(network(), schedules.LinearBeta(steps=10))
    with pytest.raises(ValueError, match=r"at most the schedule's 10\. Received: steps=11"):
        diffusion.generate([0], steps=11)


# Parts


def test_parts_have_to_fit_each_other():
    flow, table = schedules.RectifiedFlow(), schedules.LinearBeta()
    for arguments, message in (
        ((network(), flow), r"no signal.*FlowVelocity\(\), V\(\) or CleanSample"),
        ((network(), table, predictions.LearnedVariance()), "2 output channels.*and 1 output"),
        ((network(learned_variance=True), table, predictions.V()), "1 output channels.*and 2"),
        ((network(), "linear"), "schedule must be an object.* Received: schedule='linear'"),
        ((network(), table, predictions.Noise), "prediction must be an object"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_dit.Diffusion(*arguments)
    for ema in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"ema must be None or in \[0, 1\).*ema={ema}"):
            keras_dit.Diffusion(network(), ema=ema)
    with pytest.raises(ValueError, match="compile takes none"):
        keras_dit.Diffusion(network()).compile("sgd", loss="mse")


def test_a_network_of_learned_variance_picks_its_prediction():
    diffusion = keras_dit.Diffusion(network(learned_variance=True))
    assert diffusion.prediction == predictions.LearnedVariance(predictions.Noise())
    assert diffusion.generate([0, 1], steps=2, solver=solvers.DDPM()).shape == (2, 4, 4, 1)
    assert keras_dit.Diffusion(network()).prediction == predictions.Noise()


# The loss


def test_the_loss_of_a_batch_is_the_mean_of_its_samples():
    diffusion = keras_dit.Diffusion(network(), **FLOW, objective=Reconstruction())
    x, y = data(6)
    output = dit(weights_of(diffusion.network), x, np.zeros(6), y, 2, 2)
    each = ((output - x) ** 2).mean(axis=(1, 2, 3))
    weight = np.array([0.0, 1.0, 2.0, 0.5, 0.0, 1.0], "float32")
    for sample_weight, expected in ((None, each), (weight, weight * each)):
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
        labels = ops.convert_to_tensor(y[:, None], "int32")
        loss = diffusion.compute_loss(
            ops.convert_to_tensor(x), labels, sample_weight=sample_weight, training=False
        )
        assert float(ops.convert_to_numpy(loss)) == pytest.approx(expected.mean(), rel=1e-5)


def test_evaluation_is_repeatable_and_touches_nothing():
    diffusion = keras_dit.Diffusion(network())
    diffusion.compile("sgd")
    x, y = data(8)
    before = weights_of(diffusion.network)
    first = diffusion.evaluate(x, y, batch_size=4, verbose=0)
    assert diffusion.evaluate(x, y, batch_size=4, verbose=0) == first
    diffusion.generate([0, 1], steps=2)
    assert diffusion.evaluate(x, y, batch_size=4, verbose=0) == first
    for name, value in weights_of(diffusion.network).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("labels", [4, np.int64(4)])
def test_a_bare_number_is_no_list_of_classes(labels):
    """It may mean four images or one of class 4: which, has to be said."""
    network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=5)
    with pytest.raises(ValueError, match=r"labels=\[3, 3\]; for 4 images give num_images=4"):
        keras_dit.Diffusion(network).generate(labels)


def test_names_of_classes_are_kept_in_the_file(tmp_path):
    network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=2)
    with pytest.raises(ValueError, match="one for each of 2 classes"):
        keras_dit.Diffusion(network, class_names=["cat", "dog", "cow"])
    keras_dit.Diffusion(network, class_names=["cat", "dog"]).save(tmp_path / "a.keras")
    assert keras.saving.load_model(tmp_path / "a.keras").class_names == ("cat", "dog")
    keras_dit.weights.export(network, tmp_path / "a.pt", class_names=["cat", "dog"])
    assert keras_dit.Diffusion.from_preset(tmp_path / "a.pt").class_names == ("cat", "dog")
