"""Laws of keras_dit.guidance, on denoisers that are written down."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import Denoised, Rates
from keras_dit.backend import combine, partition
from keras_dit.guidance import (
    Autoguidance,
    ClassifierFree,
    Clipped,
    Interval,
    NegativeLabel,
    Ramp,
    Unguided,
)

NULL = 9
RATES = Rates(*(ops.convert_to_tensor(np.float32(v)) for v in (0.5, 0.8, 0.6)))
GUIDANCES = [
    Unguided(),
    ClassifierFree(),
    ClassifierFree(0.5, channels=1),
    ClassifierFree([0.5, 1.0, 2.0], rescale=0.7),
    ClassifierFree(Interval(2.0, 0.4, 0.9)),
    ClassifierFree(Ramp()),
    NegativeLabel(label=3),
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


def weak(x_t, rates, condition):
    """A denoiser that sees the labels half."""
    return Denoised(Labelled()(x_t, rates, condition).x0 - 0.5 * condition[:, None, None, None])


def test_a_negative_label_takes_the_place_of_no_class():
    expected = plain(3) + 2.0 * (plain() - plain(3))
    np.testing.assert_allclose(guided(NegativeLabel(2.0, label=3)), expected, atol=1e-5)
    np.testing.assert_allclose(
        guided(NegativeLabel(2.0, label=NULL)), guided(ClassifierFree(2.0)), atol=1e-6
    )


def test_autoguidance_goes_away_from_the_weak_network():
    x, labels = batch()
    worse = ops.convert_to_numpy(weak(x, RATES, ops.cast(labels, "float32")).x0)
    denoiser = Labelled()

    def half(x_t, rates, condition):
        return weak(x_t, rates, ops.cast(condition, "float32"))

    result = guided(Autoguidance(3.0, weak=half), denoiser)
    np.testing.assert_allclose(result, worse + 3.0 * (plain() - worse), atol=1e-5)
    assert denoiser.sizes == [3]


def test_each_sample_may_have_a_scale_of_its_own():
    result = guided(ClassifierFree([0.0, 1.0, 4.0]))
    for i, scale in enumerate([0.0, 1.0, 4.0]):
        np.testing.assert_allclose(result[i], guided(ClassifierFree(scale))[i], atol=1e-5)


def test_outside_its_interval_the_scale_is_1():
    guidance = ClassifierFree(Interval(2.0, 0.5, 0.6))
    np.testing.assert_allclose(guided(guidance), guided(ClassifierFree(2.0)), atol=1e-6)
    t = np.array([0.49, 0.6, 0.7], "float32")
    rates = Rates(*map(ops.convert_to_tensor, (t, 1 - t, t)))
    result, full = guided(guidance, rates=rates), guided(ClassifierFree(2.0), rates=rates)
    np.testing.assert_allclose(result[1], full[1], atol=1e-6)
    np.testing.assert_allclose(result[[0, 2]], plain(rates=rates)[[0, 2]], atol=1e-6)


def test_a_ramp_is_a_straight_line_in_t():
    t = np.array([0.0, 0.25, 1.0], "float32")
    rates = Rates(*map(ops.convert_to_tensor, (t, 1 - t, t)))
    np.testing.assert_allclose(
        guided(ClassifierFree(Ramp(3.0, 1.0)), rates=rates),
        guided(ClassifierFree([1.0, 1.5, 3.0]), rates=rates),
        atol=1e-5,
    )


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_brings_the_deviation_of_each_picture_back(rescale):
    """Of a denoiser whose pictures spread out with the label."""

    class Spread(Labelled):
        def __call__(self, x_t, rates, condition):
            label = ops.reshape(ops.cast(condition, "float32"), (-1, 1, 1, 1))
            return Denoised(x_t * (1.0 + label))

    plain_, full, part = (
        guided(g, Spread())
        for g in (Unguided(), ClassifierFree(3.0), ClassifierFree(3.0, rescale=rescale))
    )
    spread = [x.reshape(3, -1).std(axis=1) for x in (plain_, full, part)]
    expected = rescale * spread[0] + (1 - rescale) * spread[1]
    np.testing.assert_allclose(spread[2], expected, rtol=1e-4)


def simplified(guidance, times, samples=(0, 1, 2), count=3):
    return guidance.simplified(times, np.array(samples), count)


def form(guidance, times=(0.5,)):
    return partition(simplified(guidance, times))[0]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_form_and_numbers_are_the_guidance_again(guidance):
    again = combine(*partition(simplified(guidance, [0.5])))
    np.testing.assert_allclose(guided(again), guided(guidance), atol=1e-6)


def test_another_scale_is_the_same_form():
    assert len({form(ClassifierFree(scale)) for scale in (0.0, 2.0, 7, lambda t: 3 * t)}) == 1
    assert len({form(ClassifierFree(scales)) for scales in ([1.0, 2.0, 3.0], [4, 5, 6])}) == 1
    assert len({form(Clipped(ClassifierFree(2.0), limit)) for limit in (1.0, 2.0)}) == 1
    assert len({form(NegativeLabel(2.0, label=label)) for label in (1, 2)}) == 1


def test_a_function_of_time_is_asked_on_the_host():
    """So one that is new at each call, as a lambda is, needs no other program."""
    forms = {form(ClassifierFree(lambda t, k=k: k * t), [0.6, 0.3]) for k in range(2, 5)}
    assert len(forms) == 1
    now = simplified(ClassifierFree(lambda t: 4.0 * t), [0.7, 0.5])
    np.testing.assert_allclose(guided(now), guided(ClassifierFree(2.0)), atol=1e-6)


def test_where_the_scale_is_1_it_is_unguided():
    interval = ClassifierFree(Interval(2.0, 0.4, 0.6))
    assert simplified(ClassifierFree(1.0), [0.5]) == Unguided()
    assert simplified(interval, [0.3]) == Unguided()
    assert simplified(interval, [0.7, 0.65]) == Unguided()
    assert simplified(interval, [0.65, 0.5]).scale(0.5) == 2.0
    assert simplified(interval, [0.65, 0.5]).scale(0.65) == 1.0
    assert simplified(Clipped(interval), [0.3]) == Clipped()


def test_a_batch_gets_the_scales_of_its_samples():
    whole = ClassifierFree([0.0, 5.0, 1.0, 2.0, 4.0])
    part = simplified(whole, [0.5], samples=[4, 0, 3], count=5)
    np.testing.assert_allclose(guided(part), guided(ClassifierFree([4.0, 0.0, 2.0])), atol=1e-6)
    with pytest.raises(ValueError, match="5 scales for 6 samples"):
        simplified(whole, [0.5], count=6)


@pytest.mark.parametrize(
    "scale",
    [float("nan"), float("inf"), -float("inf"), "3", None, [1.0, float("nan")], [[1.0]], ["a"]],
)
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be"):
        ClassifierFree(scale)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="channels must be"):
        ClassifierFree(2.0, channels=0)
    with pytest.raises(ValueError, match="rescale must be"):
        ClassifierFree(2.0, rescale=1.5)


@pytest.mark.parametrize("label", [2.7, True, "2", None, -1, [1]])
def test_a_negative_label_that_is_no_label_is_refused(label):
    with pytest.raises(ValueError, match="label must be"):
        NegativeLabel(2.0, label=label)


def test_a_weak_model_that_is_no_denoiser_is_refused():
    model = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2))
    for weak in (model, model.network, "small", None):
        with pytest.raises(ValueError, match=r"weak must be a denoiser.*other\.denoiser\(\)"):
            Autoguidance(2.0, weak=weak)
    assert Autoguidance(2.0, weak=model.denoiser()).weak == model.denoiser()


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(ValueError, match="needs labels"):
        ClassifierFree(2.0)(Labelled(), None)


@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_configurations_round_trip(guidance):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(guidance))
    assert again == guidance
    assert hash(again) == hash(guidance)
