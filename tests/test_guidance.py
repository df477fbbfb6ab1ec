"""Laws of keras_dit.guidance, on denoisers that are written down."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_dit import Denoised, Rates
from keras_dit.guidance import ClassifierFree, Clipped, Unguided

NULL = 9
RATES = Rates(*(ops.convert_to_tensor(np.float32(v)) for v in (0.5, 0.8, 0.6)))
GUIDANCES = [
    Unguided(),
    ClassifierFree(),
    ClassifierFree(0.5, channels=3),
    Clipped(),
    Clipped(ClassifierFree(2.0), 0.5),
]


class Labelled:
    """x0 = x / 2 + label + sigma, and the batch sizes it was called with."""

    def __init__(self, learned_variance=False):
        self.learned_variance = learned_variance
        self.sizes = []

    def __call__(self, x_t, rates, condition):
        self.sizes.append(x_t.shape[0])
        label = ops.reshape(ops.cast(condition, "float32"), (-1, 1, 1, 1))
        sigma = ops.reshape(rates.sigma, (-1, 1, 1, 1))
        x0 = 0.5 * x_t + label + sigma
        return Denoised(x0, x0 + 10.0 if self.learned_variance else None)

    def null(self, condition):
        return ops.full_like(condition, NULL)


def batch(channels=2, seed=0):
    x = np.random.default_rng(seed).standard_normal((3, 2, 2, channels)).astype("float32")
    return ops.convert_to_tensor(x), ops.convert_to_tensor(np.array([0, 4, NULL], "int32"))


def guided(guidance, denoiser=None, rates=RATES, channels=2):
    x, labels = batch(channels)
    result = guidance(denoiser or Labelled(), labels)(x, rates)
    return ops.convert_to_numpy(result.x0)


def plain(label=None, rates=RATES, channels=2):
    """What the denoiser says under the batch's labels, or under one label."""
    x, labels = batch(channels)
    labels = labels if label is None else ops.full_like(labels, label)
    return ops.convert_to_numpy(Labelled()(x, rates, labels).x0)


def test_unguided_is_the_denoiser():
    np.testing.assert_array_equal(guided(Unguided()), plain())


def test_scale_1_is_the_condition_alone_and_one_evaluation():
    denoiser = Labelled()
    np.testing.assert_array_equal(guided(ClassifierFree(1.0), denoiser), plain())
    assert denoiser.sizes == [3]


def test_any_other_scale_is_one_call_on_both_halves():
    denoiser = Labelled()
    guided(ClassifierFree(2.0), denoiser)
    assert denoiser.sizes == [6]


def test_scale_0_is_unconditional():
    np.testing.assert_allclose(guided(ClassifierFree(0.0)), plain(NULL), atol=1e-6)


@pytest.mark.parametrize("scale", [-1.0, 0.3, 1.0, 2, 7.5])
def test_guidance_is_linear_in_its_scale(scale):
    expected = plain(NULL) + scale * (plain() - plain(NULL))
    np.testing.assert_allclose(guided(ClassifierFree(scale)), expected, atol=2e-5)


def test_the_null_condition_is_not_moved():
    np.testing.assert_allclose(guided(ClassifierFree(5.0))[2], plain()[2], atol=1e-5)


def test_the_first_channels_alone_may_be_guided():
    whole, part = guided(ClassifierFree(3.0), channels=4), None
    part = guided(ClassifierFree(3.0, channels=3), channels=4)
    np.testing.assert_array_equal(part[..., :3], whole[..., :3])
    np.testing.assert_array_equal(part[..., 3:], plain(channels=4)[..., 3:])


def test_a_learned_variance_is_not_guided():
    x, labels = batch()
    for guidance in GUIDANCES:
        result = guidance(Labelled(learned_variance=True), labels)(x, RATES)
        fraction = ops.convert_to_numpy(result.variance_fraction)
        np.testing.assert_allclose(fraction, plain() + 10.0, rtol=1e-6)


def test_each_sample_may_have_a_time_of_its_own():
    t = np.array([0.2, 0.5, 0.9], "float32")
    rates = Rates(*map(ops.convert_to_tensor, (t, 1 - t, t)))
    expected = plain(NULL, rates) + 2.0 * (plain(rates=rates) - plain(NULL, rates))
    np.testing.assert_allclose(guided(ClassifierFree(2.0), rates=rates), expected, atol=1e-5)


def test_clipping_comes_after_guidance():
    inner = ClassifierFree(2.0)
    expected = np.clip(guided(inner), -0.5, 0.5)
    np.testing.assert_array_equal(guided(Clipped(inner, 0.5)), expected)
    np.testing.assert_array_equal(guided(Clipped()), np.clip(plain(), -1, 1))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), "3", None])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be"):
        ClassifierFree(scale)


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="channels must be"):
        ClassifierFree(2.0, channels=0)


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(ValueError, match="needs labels"):
        ClassifierFree(2.0)(Labelled(), None)


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_configurations_round_trip(guidance):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(guidance))
    assert again == guidance
    assert hash(again) == hash(guidance)
