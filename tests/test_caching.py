"""Laws of keras_dit.caching, most of them against its rule written out in numpy."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import Denoiser, backend, guidance, sampler, solvers
from keras_dit.sampling.caching import (
    CachedNetwork,
    FirstBlockCache,
    Memory,
    PeriodicCache,
    check_network,
)

SHAPE, CLASSES, STEPS = (4, 4, 1), 3, 6
ALWAYS = FirstBlockCache(1e6)


def network(depth=3, seed=0, kind=keras_dit.DiTModel, **settings):
    made = kind(SHAPE, 2, 16, depth, 2, num_classes=CLASSES, **settings)
    rng = np.random.default_rng(seed)
    for weight in made.trainable_variables:
        weight.assign(0.2 * rng.standard_normal(weight.shape))
    return made


def diffusion_of(net):
    return keras_dit.Diffusion(net, prediction=keras_dit.predictions.V(), ema=None)


@functools.cache
def diffusion():
    return diffusion_of(network())


@functools.cache
def weak():
    return diffusion_of(network(depth=1, seed=1)).denoiser()


def generate(cache, model=None, labels=(0, 1, 2, None), **settings):
    settings = {"steps": STEPS, "seed": 3, **settings}
    return (model or diffusion()).generate(list(labels), cache=cache, **settings)


def generate_and_report(cache_class, number, **settings):
    reports = []
    return generate(cache_class(number, report=reports.append), **settings), reports


@functools.cache
def compiled_parts():
    net = diffusion().network

    def parts(x, t, y):
        tokens, conditioning = net.embed(x, t, y)
        head = tail = net.blocks[0](tokens, conditioning)
        for block in net.blocks[1:]:
            tail = block(tail, conditioning)
        return conditioning, head, head - tokens, tail - head

    return backend.compile_inference(parts), backend.compile_inference(net.image)


class ByHand:
    """The network with the rule of a cache for each sample, one evaluation after the other."""

    def null(self, count):
        return np.full(count, CLASSES, "int32")

    def __init__(self, keeps):
        self.keeps = keeps
        self.memory, self.reused, self.evaluations = [], 0.0, 0

    def __call__(self, x, t, y, training):
        parts, picture = compiled_parts()
        conditioning, *results = parts(x, t, y)
        head, first, others = (np.array(ops.convert_to_numpy(part)) for part in results)
        if len(self.memory) != len(x):
            self.memory = [None] * len(x)
        for i, memory in enumerate(self.memory):
            if memory is not None and self.keeps(first[i], memory):
                memory["age"] += 1
                self.reused += 1 / len(x)
                others[i] = memory["others"]
            else:
                self.memory[i] = {"age": 1, "first": first[i], "others": others[i].copy()}
        self.evaluations += 1
        return picture(ops.convert_to_tensor(head + others), conditioning)


RULES = {
    FirstBlockCache: lambda number: (
        lambda first, memory: (
            np.abs(first - memory["first"]).mean() < number * np.abs(memory["first"]).mean()
        )
    ),
    PeriodicCache: lambda number: lambda first, memory: memory["age"] < number,
}


def by_hand(cache_class, number, guide, solver):
    """The pictures of `generate`, and the share of evaluations reused."""
    model, labels = diffusion(), np.array([0, 1, 2, CLASSES], "int32")
    net = ByHand(RULES[cache_class](number))
    denoiser = Denoiser(net, model.schedule, model.prediction)

    def denoise(x, rates):
        now = guide.simplified([float(ops.convert_to_numpy(rates.t))], np.arange(4), 4)
        return now(denoiser, ops.convert_to_tensor(labels))(x, rates)

    noise = sampler.initial_noise(3, range(4), SHAPE)
    x0 = sampler.sample(denoise, noise, model.schedule, STEPS, solver, seed=3)
    return model.codec.decode(ops.convert_to_numpy(x0)), net.reused / net.evaluations


# A step is compiled for each kind of run and class of cache, so there are few of them.
PLAIN = (guidance.Unguided(), solvers.DDIM())
HEUN = (guidance.ClassifierFree(2.0), solvers.Heun())
INTERVAL = (guidance.ClassifierFree(guidance.Interval(4.0, 0.3, 0.7)), solvers.DDIM())


@pytest.mark.parametrize(
    "cache_class, number, run",
    [
        (FirstBlockCache, 0.8, PLAIN),
        (FirstBlockCache, 1e6, PLAIN),
        (FirstBlockCache, 0.8, HEUN),
        (FirstBlockCache, 1.6, INTERVAL),
        (PeriodicCache, 2, PLAIN),
        (PeriodicCache, 100, PLAIN),
    ],
)
def test_a_run_is_its_rule_for_each_sample(cache_class, number, run):
    guide, solver = run
    expected, share = by_hand(cache_class, number, guide, solver)
    result, (report,) = generate_and_report(cache_class, number, guidance=guide, solver=solver)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    assert 0 < share < 1
    assert report.reused == pytest.approx(share)


def test_the_weak_network_of_autoguidance_is_run_whole():
    """The strong one reuses; a weak one of a single block could not."""
    guide = guidance.Autoguidance(2.0, weak=weak())
    expected, _ = by_hand(FirstBlockCache, 1e6, guide, solvers.DDIM())
    np.testing.assert_allclose(generate(ALWAYS, guidance=guide), expected, atol=2e-5)


@pytest.mark.parametrize(
    "cache, run",
    [
        (FirstBlockCache(0.0), PLAIN),
        (FirstBlockCache(0.0), HEUN),
        (PeriodicCache(1), PLAIN),
    ],
)
def test_without_reuse_the_pictures_are_the_uncached_ones(cache, run):
    settings = dict(zip(("guidance", "solver"), run))
    np.testing.assert_array_equal(generate(cache, **settings), generate(None, **settings))


@pytest.mark.parametrize("cache", [FirstBlockCache(0.8), PeriodicCache(2)], ids=str)
def test_a_picture_does_not_depend_on_those_beside_it(cache):
    labels = [0, 1, 2, 0]
    whole = generate(cache, labels=labels)
    alone = generate(cache, labels=labels, batch_size=1)
    np.testing.assert_allclose(alone, whole, atol=2e-5)
    others = generate(cache, labels=[2, 1, 0, 0])
    np.testing.assert_allclose(others[[1, 3]], whole[[1, 3]], atol=2e-5)


@pytest.mark.parametrize(
    "cache_class, numbers", [(FirstBlockCache, (0.4, 0.8, 1.6)), (PeriodicCache, (2, 8, 16))]
)
def test_more_reuse_is_more_error(cache_class, numbers):
    uncached = generate(None, steps=32)
    errors, shares = [], []
    for number in numbers:
        result, (report,) = generate_and_report(cache_class, number, steps=32)
        errors.append(np.linalg.norm(result - uncached) / np.linalg.norm(uncached))
        shares.append(report.reused)
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    assert 0 < errors[0] < errors[1] < errors[2] < 1


def test_what_is_skipped_is_what_no_sample_needs():
    _, (alike,) = generate_and_report(PeriodicCache, 3, steps=9)
    assert alike.reused == alike.skipped == pytest.approx(6 / 9)
    _, (whole,) = generate_and_report(FirstBlockCache, 0.8, steps=32)
    assert 0 < whole.skipped < whole.reused
    _, alone = generate_and_report(FirstBlockCache, 0.8, steps=32, batch_size=1)
    assert all(report.skipped == report.reused for report in alone)
    assert np.mean([report.reused for report in alone]) == pytest.approx(whole.reused)


class Watched:
    """A network that counts how often the blocks after the first are run, in compiled code too."""

    def __init__(self, net):
        self.net, self.runs = net, 0

    def __getattr__(self, name):
        return getattr(self.net, name)

    def count(self):
        self.runs += 1

    def run_blocks(self, blocks, *arguments):
        if len(blocks) > 1:
            if backend.BACKEND == "jax":
                import jax

                jax.debug.callback(self.count)
            elif backend.BACKEND == "tensorflow":
                import tensorflow as tf

                tf.py_function(self.count, [], [])
            else:
                self.count()
        return self.net.run_blocks(blocks, *arguments)


def test_blocks_that_no_sample_needs_are_not_run():
    net = Watched(diffusion().network)

    def evaluate(memory, x, t, y):
        cached = CachedNetwork(net, FirstBlockCache(0.3), memory)
        return cached(x, t, y), cached.memory

    # Within TensorFlow's XLA nothing can be counted.
    jit_compile = False if backend.BACKEND == "tensorflow" else "auto"
    evaluate = backend.compile_inference(evaluate, jit_compile)
    x = sampler.initial_noise(0, range(2), SHAPE)
    y = ops.convert_to_tensor(np.array([0, 1], "int32"))
    memory, seen = Memory.empty(), []
    for scale in ([1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [1.0, -1.0]):
        moved = x * np.reshape(np.array(scale, "float32"), (2, 1, 1, 1))
        output, memory = evaluate(memory, ops.convert_to_tensor(moved), ops.full((2,), 500.0), y)
        ops.convert_to_numpy(output)
        seen.append(net.runs)
    assert seen == [1, 1, 2, 2]
    assert float(memory.skipped) == 2.0
    assert float(memory.reused) == 2.5


class Counted(keras_dit.DiTModel):
    """Counts its evaluations in Python: where steps are compiled, their traces."""

    def embed(self, *arguments):
        object.__setattr__(self, "evaluations", getattr(self, "evaluations", 0) + 1)
        return super().embed(*arguments)


def test_a_step_with_a_cache_is_compiled_once_and_once_more_as_the_last():
    model = diffusion_of(network(kind=Counted))
    # torch runs a step that branches as it is, after one look at whether it can be recorded.
    on_torch = backend.BACKEND == "torch"
    generate(FirstBlockCache(0.1), model)
    assert model.network.evaluations == (STEPS + 1 if on_torch else 2)
    generate(FirstBlockCache(0.2), model)  # another threshold is no other step
    assert model.network.evaluations == (2 * STEPS + 1 if on_torch else 2)


def test_a_step_without_a_cache_is_compiled_once_and_once_more_as_the_last():
    model = diffusion_of(network(kind=Counted))
    generate(None, model)
    # torch: two plain calls and the one that is recorded, and the last
    assert model.network.evaluations == (4 if backend.BACKEND == "torch" else 2)


def test_mixed_precision_reuses_too():
    model = diffusion_of(network(dtype="mixed_bfloat16"))
    for cache in (None, FirstBlockCache(0.0), ALWAYS):
        single = generate(cache)  # the same weights
        np.testing.assert_allclose(generate(cache, model), single, atol=0.05)
    assert np.abs(single - generate(None)).max() > 0.2


def test_a_first_block_that_adds_nothing_says_nothing():
    """A new network's blocks are the identity; 0 < 0 is false, so nothing is reused."""
    model = diffusion_of(keras_dit.DiTModel(SHAPE, 2, 16, 2, 2, num_classes=CLASSES))
    _, (report,) = generate_and_report(FirstBlockCache, 1e6, model=model)
    assert report.reused == 0


def test_the_bar_shows_what_was_reused(capsys):
    generate(PeriodicCache(2), verbose=True)
    assert "50% reused, 50% skipped" in capsys.readouterr().err


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a finite number of 0 or more"):
        FirstBlockCache(threshold)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_a_period_that_is_no_number_of_evaluations_is_refused(every):
    with pytest.raises(ValueError, match="every must be an integer of 1 or more"):
        PeriodicCache(every)


def test_a_network_that_cannot_be_cached_is_refused():
    with pytest.raises(ValueError, match=r"2 blocks or more\. Received: depth=1"):
        generate(ALWAYS, diffusion_of(network(depth=1)))
    with pytest.raises(ValueError, match=r"needs a DiTModel as the network\. Received: a Dense"):
        check_network(keras.layers.Dense(1))
    with pytest.raises(
        ValueError,
        match=r"cache must be an object of a Cache class, such as caching.PeriodicCache\(2\)",
    ):
        generate(0.1)
