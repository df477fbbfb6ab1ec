"""Laws of `Diffusion.generate_batches`, and of what `generate` compiles and refuses."""

import functools
import gc
import weakref

import numpy as np
import pytest

import keras_dit
from keras_dit import backend, caching, guidance, sampler, schedules, solvers

SHAPE, CLASSES = (4, 4, 1), 3


class Counted(keras_dit.DiTModel):
    """Counts its evaluations in Python: where steps are compiled, their traces."""

    def embed(self, *arguments):
        object.__setattr__(self, "evaluations", getattr(self, "evaluations", 0) + 1)
        return super().embed(*arguments)


def network(kind=keras_dit.DiTModel):
    made = kind(SHAPE, 2, 16, 2, 2, num_classes=CLASSES)
    rng = np.random.default_rng(0)
    for weight in made.trainable_variables:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    return made


@functools.cache
def diffusion():
    return keras_dit.Diffusion(network(), ema=None)


# Batch by batch


def test_generate_is_its_batches_collected():
    settings = {"labels": [0, 1, 2, None, 0], "steps": 2, "seed": 3, "batch_size": 2}
    batches = list(diffusion().generate_batches(**settings))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert all(batch.dtype == np.float32 for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), diffusion().generate(**settings))


def with_codec(decode):
    """A model whose codec decodes by a function."""

    class Codec(keras_dit.codecs.Pixels):
        def decode(self, samples):
            return decode(super().decode(samples))

    return keras_dit.Diffusion(network(), codec=Codec(), ema=None)


def test_a_batch_is_made_and_decoded_when_it_is_asked_for():
    decoded = []
    model = with_codec(lambda images: decoded.append(len(images)) or images)
    batches = model.generate_batches(num_images=5, steps=1, batch_size=2)
    assert decoded == []
    next(batches)
    assert decoded == [2]
    assert [len(batch) for batch in batches] == [2, 1]
    assert decoded == [2, 2, 1]


def test_arguments_are_checked_before_a_batch_is_asked_for():
    with pytest.raises(ValueError, match="steps must be"):
        diffusion().generate_batches(num_images=2, steps=0)
    with pytest.raises(ValueError, match="2 scales for 3 samples"):
        scales = guidance.ClassifierFree([1.0, 2.0])
        diffusion().generate_batches(labels=[0, 1, 2], guidance=scales)


def test_interrupted_while_it_decodes_generate_keeps_what_there_is():
    errors = iter([None, None, KeyboardInterrupt, None])

    def decode(images):
        if error := next(errors):
            raise error
        return images

    with pytest.warns(UserWarning, match="4 of 6 images are finished, 2 are estimates"):
        images = with_codec(decode).generate(num_images=6, steps=1, batch_size=2)
    assert len(images) == 6


def test_interrupted_while_it_decodes_batches_end_with_the_whole_ones():
    errors = iter([None, KeyboardInterrupt])

    def decode(images):
        if error := next(errors):
            raise error
        return images

    batches = with_codec(decode).generate_batches(num_images=4, steps=1, batch_size=2)
    assert len(next(batches)) == 2
    with pytest.raises(KeyboardInterrupt, match="2 of 4 images are finished"):
        next(batches)


# What is compiled


def traces(model, settings):
    """How often the network ran in Python in these calls of `generate`."""
    before = getattr(model.network, "evaluations", 0)
    for setting in settings:
        model.generate(labels=[0, 1], steps=4, **setting)
    return model.network.evaluations - before


def scaled(guide):
    return {"guidance": guide}


@pytest.mark.parametrize(
    "settings",
    [
        [scaled(guidance.ClassifierFree(scale)) for scale in (2.0, 3, 0.0, 7.5)],
        [scaled(guidance.ClassifierFree([k, 1.0])) for k in (2.0, 3.0, 4.0)],
        [scaled(guidance.ClassifierFree(lambda t, k=k: 2.0 + k * t)) for k in range(4)],
        [scaled(guidance.NegativeLabel(2.0, label=k)) for k in (0, 1, 2)],
        [scaled(guidance.Clipped(guidance.Unguided(), k)) for k in (1.0, 2.0)],
        [{"cache": caching.PeriodicCache(k, report=lambda reuse: None)} for k in (2, 3)],
        [{"seed": k} for k in range(3)],
    ],
    ids=["scale", "scales", "function", "label", "limit", "cache", "seed"],
)
@pytest.mark.skipif(backend.BACKEND == "torch", reason="torch runs some steps as they are")
def test_numbers_that_change_need_no_other_program(settings):
    model = keras_dit.Diffusion(network(Counted), ema=None)
    assert traces(model, settings[:1]) in (2, 3)  # a step, the last one, with a cache the first
    assert traces(model, settings[1:]) == 0


def test_a_function_of_time_that_is_new_at_each_call_leaves_nothing_behind():
    model = diffusion()
    functions = []

    def fresh(k):
        def scale(t):
            return 1.5 + k * t

        functions.append(weakref.ref(scale))
        return guidance.ClassifierFree(scale)

    for k in range(3):
        model.generate(labels=[0], steps=2, guidance=fresh(k), solver=solvers.Heun())
    gc.collect()
    assert not any(one() is not None for one in functions)


# What is refused

WRONG = [
    ("solver", "ddim", r"solvers\.DDIM\(\)"),
    ("solver", solvers.DDIM, r"solvers\.DDIM\(\)"),
    ("guidance", 3.0, r"guidance\.ClassifierFree\(3\.0\)"),
    ("guidance", "cfg", r"guidance\.ClassifierFree\(3\.0\)"),
    ("grid", "karras", r"schedules\.KarrasGrid\(\)"),
    ("grid", [1.0, 0.5], r"schedules\.KarrasGrid\(\)"),
    ("cache", 2, r"caching\.PeriodicCache\(2\)"),
]


@pytest.mark.parametrize("name, value, example", WRONG, ids=str)
def test_the_wrong_kind_is_refused_with_an_example(name, value, example):
    with pytest.raises(ValueError, match=rf"{name} must be .*{example}.*Received: {name}="):
        diffusion().generate(labels=[0], **{name: value})


@pytest.mark.parametrize("name, value, example", WRONG[:2], ids=str)
def test_the_sampler_alone_refuses_the_wrong_kind_too(name, value, example):
    with pytest.raises(ValueError, match=rf"{name} must be .*{example}"):
        sampler.sample(None, np.zeros((1, 2)), schedules.LinearBeta(), **{name: value})


def test_the_cache_goes_by_its_name_of_0_1_0_too():
    settings = {"labels": [0, 1], "steps": 4}
    cache = caching.PeriodicCache(2)
    with pytest.warns(DeprecationWarning, match="cache="):
        old = diffusion().generate(caching=cache, **settings)
    np.testing.assert_array_equal(old, diffusion().generate(cache=cache, **settings))
