"""Averages whose length is chosen after training: power profiles, their snapshots, their sums."""

import os
import pathlib

import keras
import numpy as np
import pytest
from keras import ops
from test_resume import IMAGES, LABELS, KillAt, KilledError

import keras_dit
from keras_dit import averages, checkpoints
from keras_dit.averages import Power, Snapshots
from keras_dit.backend import BACKEND
from keras_dit.cli import main, models
from keras_dit.training import WeightAverage, snapshots
from keras_dit.training.checkpoints import files

GOLDEN = np.load(pathlib.Path(__file__).parent / "goldens" / "phema.npz")
STDS = (0.05, 0.10)


def array(variable):
    return np.array(ops.convert_to_numpy(variable))


# Profiles


def test_widths_and_exponents_are_edm2s_and_each_others_inverse():
    np.testing.assert_allclose([averages.exponent(s) for s in GOLDEN["stds"]], GOLDEN["exponents"])
    np.testing.assert_allclose(averages.width(GOLDEN["exponents"]), GOLDEN["widths"], rtol=1e-14)
    for std in np.geomspace(0.003, 12**-0.5, 20):
        assert averages.width(averages.exponent(std)) == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.3, float("nan")])
def test_a_width_that_no_profile_has_is_refused(std):
    with pytest.raises(ValueError, match="std must be above 0 and at most"):
        averages.exponent(std)


@pytest.mark.parametrize("stds", [(), (0.1, 0.05), (0.05, 0.05)])
def test_widths_that_do_not_rise_are_refused(stds):
    with pytest.raises(ValueError, match="stds must be rising numbers"):
        Power(stds)


def test_what_is_no_average_is_refused():
    with pytest.raises(ValueError, match="ema must be None, a decay"):
        WeightAverage("0.99", keras.layers.Dense(1))


def tracked(walk, std_pairs):
    """A `WeightAverage` that has followed a walk of the weights, after each of its updates."""
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, walk.shape[1]))
    average = WeightAverage(Power(std_pairs), layer)
    for weights in walk:
        layer.kernel.assign(weights[:, None])
        average.update()
        yield [array(v)[:, 0] for p in average.profiles for v in average.by_name(p).values()]


def test_an_update_has_edm2s_beta_also_after_a_million():
    for std, betas in zip(STDS, GOLDEN["betas"], strict=True):
        (profile,) = WeightAverage(Power((std,)), keras.layers.Dense(1)).profiles
        rates = array(profile.rate(ops.convert_to_tensor(GOLDEN["beta_times"] - 1, "float32")))
        # 1 − β, whose digits float32 would lose in β: exactly, as a double has them.
        exact = -np.expm1((averages.exponent(std) + 1) * np.log1p(-1 / GOLDEN["beta_times"]))
        np.testing.assert_allclose(1 - exact, betas, rtol=1e-9)
        np.testing.assert_allclose(rates, exact, rtol=3e-6)


def test_the_share_of_each_update_is_the_profile():
    count = 24
    *_, (narrow, wide) = tracked(np.eye(count, dtype="float32"), STDS)
    for shares, std in ((narrow, 0.05), (wide, 0.10)):
        ends = (np.arange(count + 1) / count) ** (averages.exponent(std) + 1)  # ∫ f
        np.testing.assert_allclose(shares, np.diff(ends), atol=1e-6)


# Sums of snapshots


def write(folder, stored, times):
    """Snapshots in files, of arrays [time][std][weight]."""
    for time, of_time in zip(times, stored, strict=True):
        arrays = {
            f"{std:g}/{name}": np.array(value)
            for std, values in zip(STDS, of_time, strict=True)
            for name, value in values.items()
        }
        facts = {"updates": int(time), "stds": list(STDS)}
        files.write(snapshots.path_of(folder, int(time)), arrays, facts)


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phema")
    stored = [
        [{n: GOLDEN[f"tracked/{std}/{i}"][t] for i, n in enumerate("wb")} for std in STDS]
        for t in range(len(GOLDEN["times"]))
    ]
    write(folder, stored, GOLDEN["times"])
    return folder


def test_a_tracked_walk_is_edm2s():
    walk = GOLDEN["walk/0"].reshape(len(GOLDEN["walk/0"]), -1)
    found = list(tracked(walk, STDS))
    for place, std in enumerate(STDS):
        mine = np.stack([found[t - 1][place] for t in GOLDEN["times"]])
        theirs = GOLDEN[f"tracked/{std}/0"].reshape(mine.shape)
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("std", [0.03, 0.075, 0.15, 0.2])
def test_coefficients_and_the_sum_are_edm2s(golden_folder, std):
    times = GOLDEN["times"]
    stored = np.tile(STDS, len(times)), np.repeat(times, len(STDS))
    x = averages.coefficients(*stored, std, times[-1])
    np.testing.assert_allclose(x, GOLDEN[f"coefficients/{std}"], atol=1e-9)
    made = averages.reconstruct(golden_folder, std)
    assert (made.at, made.stored, made.std) == (48, 24, std)
    for i, name in enumerate("wb"):
        np.testing.assert_allclose(made.values[name], GOLDEN[f"rebuilt/{std}/{i}"], atol=1e-5)


@pytest.mark.parametrize("at", [None, 20])
@pytest.mark.parametrize("std", STDS)
def test_a_profile_that_was_tracked_is_given_back(golden_folder, std, at):
    made = averages.reconstruct(golden_folder, std, at)
    place = list(GOLDEN["times"]).index(at or 48)
    assert made.error < 1e-6 and made.at == (at or 48)
    np.testing.assert_allclose(made.values["w"], GOLDEN[f"tracked/{std}/0"][place], atol=1e-5)


@pytest.mark.parametrize("std", [0.03, 0.07, 0.2])
def test_on_a_random_walk_the_sum_is_as_near_as_theory_says(std):
    """Its error is Σ_j (P_j − Q_j) ε_j of steps ε_j, with P and Q the summed profiles."""
    count, every, dimensions = 256, 16, 4000
    steps = np.random.default_rng(0).normal(size=(count, dimensions))
    walk = steps.cumsum(0)
    updates = np.arange(count + 1)

    def summed(std, time):
        return np.minimum(updates / time, 1.0) ** (averages.exponent(std) + 1)

    def average(std, time):
        return np.diff(summed(std, time)) @ walk

    times, stds = np.repeat(np.arange(every, count + 1, every), 2), np.tile(STDS, count // every)
    x = averages.coefficients(stds, times, std, count)
    made = sum(f * average(s, t) for f, s, t in zip(x, stds, times, strict=True))
    apart = sum(f * summed(s, t) for f, s, t in zip(x, stds, times, strict=True))
    theory = np.sqrt(np.sum((apart - summed(std, count))[:-1] ** 2))
    measured = np.sqrt(np.mean((made - average(std, count)) ** 2))
    assert measured == pytest.approx(theory, rel=0.05)
    # 16 snapshots: a small part of how far the average is behind the weights.
    assert measured < 0.02 * np.sqrt(np.mean((average(std, count) - walk[-1]) ** 2))


def test_the_error_that_is_said_is_that_of_the_profiles_and_falls_with_more_snapshots():
    t = (np.arange(200000) + 0.5) / 200000

    def profile(std, time):
        g = averages.exponent(std)
        return np.where(t < time, (g + 1) * np.minimum(t / time, 1) ** g / time, 0)

    errors = []
    for count in (4, 8, 16):
        times, stds = np.repeat(np.arange(1, count + 1) / count, 2), np.tile(STDS, count)
        x = averages.coefficients(stds, times, 0.15, 1.0)
        made = sum(f * profile(s, e) for f, s, e in zip(x, stds, times, strict=True))
        wanted = profile(0.15, 1.0)
        errors.append(np.sqrt(np.sum((made - wanted) ** 2) / np.sum(wanted**2)))
        said = averages.profile_error(stds, times, 0.15, 1.0)
        assert said == pytest.approx(errors[-1], rel=0.02)
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("std", [0.005, 0.28])
def test_a_width_out_of_reach_is_refused_with_those_that_are_within(golden_folder, std):
    with pytest.raises(ValueError, match=r"std must be from 0\.02\d* to 0\.2\d, .* 12 snapshots"):
        averages.reconstruct(golden_folder, std)


def test_a_time_without_a_snapshot_and_no_snapshots_are_named(golden_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no snapshot at update 21 .* 16, 20, 24"):
        averages.reconstruct(golden_folder, 0.1, at=21)
    with pytest.raises(FileNotFoundError, match="no snapshots of"):
        averages.reconstruct(tmp_path, 0.1)


# In a training


STEPS, EPOCHS = 4, 6  # 16 images in fours


def make(**options):
    keras.utils.set_random_seed(3)
    network = keras_dit.DiTModel((4, 4, 1), 2, hidden_size=8, depth=1, num_heads=2, num_classes=3)
    model = keras_dit.Diffusion(network, ema=Power(STDS))
    optimizer = keras.optimizers.Adam(0.02, **options)
    model.compile(optimizer, jit_compile=BACKEND == "jax")
    return model


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """One model for many runs, and the file of how it began."""
    model = make()
    path = tmp_path_factory.mktemp("begin") / "begin.safetensors"
    checkpoints.save(path, model, {})
    return model, path


def train(learner, folder, kill=None, epochs=EPOCHS, **settings):
    model, path = learner
    checkpoints.load(model, path, *checkpoints.read(path))
    own = Snapshots(folder / "averages", resume=True, **settings)
    every = 0.0 if kill else None
    callbacks = [own, checkpoints.Checkpoint(folder / "checkpoints", every, resume=True)]
    callbacks += [KillAt(kill)] if kill else []
    data = keras_dit.datasets.ImageBatches(IMAGES[:16], LABELS[:16], 4, seed=3)
    model.fit(data, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def held(model, place=-1):
    return {n: array(v) for n, v in model.average.by_name(model.average.profiles[place]).items()}


def digests(folder):
    return {path.name: path.read_bytes() for path in (folder / "averages").iterdir()}


@pytest.fixture(scope="module")
def whole(learner, tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(learner, folder, keep=8, dtype="float32")
    return folder


def test_snapshots_lie_evenly_and_hold_the_averages(learner, whole):
    model = train(learner, whole)  # nothing is left to do: as it ended
    assert snapshots.times(whole / "averages") == [4, 8, 12, 16, 20, 24]
    last = snapshots.opened(whole / "averages")[-1]
    for place, std in enumerate(STDS):
        for name, value in held(model, place).items():
            np.testing.assert_array_equal(last.average(std, name), value)
    assert any((held(model, 0)[n] != v).any() for n, v in held(model).items())


@pytest.mark.parametrize("step", [3, 4, 15])
def test_a_run_that_was_killed_ends_with_the_same_files(learner, whole, tmp_path, step):
    with pytest.raises(KilledError):
        train(learner, tmp_path, kill=step, keep=8, dtype="float32")
    left = tmp_path / "averages" / "updates_00000020.safetensors"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of a place that the checkpoint has not come to")
    train(learner, tmp_path, keep=8, dtype="float32")
    assert digests(tmp_path) == digests(whole)


def test_a_run_that_becomes_longer_keeps_every_second_one(learner, tmp_path):
    train(learner, tmp_path, epochs=3, keep=8)
    assert snapshots.times(tmp_path / "averages") == [2, 4, 6, 8, 10, 12]
    first = digests(tmp_path)
    train(learner, tmp_path, epochs=6, keep=8)
    assert snapshots.times(tmp_path / "averages") == [4, 8, 12, 16, 20, 24]
    name = "updates_00000008.safetensors"
    assert digests(tmp_path)[name] == first[name]


def test_half_precision_is_half_the_space_and_the_same_to_its_rounding(learner, whole, tmp_path):
    train(learner, tmp_path, keep=8)
    small, large = (sum(map(len, digests(f).values())) for f in (tmp_path, whole))
    assert small < 0.7 * large
    one, two = (averages.reconstruct(f / "averages", 0.08).values for f in (tmp_path, whole))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=2e-3 * (1 + abs(two[name]).max()))


def test_what_float16_does_not_hold_stays_float32():
    stored = snapshots._stored(keras.Variable([1e5, 1.0]), "float16")
    np.testing.assert_array_equal(stored, [1e5, 1.0])


def test_a_model_takes_a_sum_in_and_samples_with_it(learner, whole):
    model = train(learner, whole)
    before = [array(w) for w in model.network.weights]
    old = model.generate(labels=[0, 1], steps=2)
    made = averages.load(model, whole / "averages", 0.15)
    assert 0 < made.error < averages.reconstruct(whole / "averages", 0.15, at=20).error < 0.1
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, made.values[name])
    for value, weight in zip(before, model.network.weights, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    assert abs(model.generate(labels=[0, 1], steps=2) - old).max() > 1e-4
    plain = keras_dit.Diffusion(model.network.copied(), ema=None)
    averages.load(plain, whole / "averages", 0.15)
    one, two = (m.generate(labels=[0, 1], steps=2) for m in (plain, model))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_sum_for_another_network_is_refused_and_changes_nothing(whole):
    network = keras_dit.DiTModel((4, 4, 1), 2, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    model, before = keras_dit.Diffusion(network, ema=0.9), network.get_weights()
    with pytest.raises(ValueError, match="of another network"):
        averages.load(model, whole / "averages", 0.1)
    for value, weight in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_file_keeps_every_average(learner, whole, tmp_path):
    model = train(learner, whole)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.ema == Power(STDS)
    assert array(again.average.updates) == STEPS * EPOCHS
    for place in range(2):
        for name, value in held(again, place).items():
            np.testing.assert_array_equal(value, held(model, place)[name])


@pytest.mark.skipif(BACKEND != "torch", reason="one more program, of what no backend changes")
def test_an_update_of_several_batches_counts_once(tmp_path):
    model = make(gradient_accumulation_steps=2)
    own = Snapshots(tmp_path, keep=8)
    model.fit(IMAGES[:16], LABELS[:16], 4, epochs=6, verbose=0, callbacks=[own])
    assert snapshots.times(tmp_path) == [2, 4, 6, 8, 10, 12]


def test_a_folder_with_snapshots_and_a_model_without_are_refused(learner, whole):
    with pytest.raises(ValueError, match="holds snapshots already:"):
        learner[0].fit(IMAGES[:4], LABELS[:4], verbose=0, callbacks=[Snapshots(whole / "averages")])
    network = keras_dit.DiTModel((4, 4, 1), 2, hidden_size=8, depth=1, num_heads=2)
    model = keras_dit.Diffusion(network, ema=0.9)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"ema=averages.Power"):
        model.fit(IMAGES[:4], verbose=0, callbacks=[Snapshots(whole / "other")])


@pytest.mark.parametrize(("name", "value"), [("keep", 0), ("dtype", "int8")])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* Received: {name}="):
        Snapshots("folder", **{name: value})


# The command


def command(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = ["--hidden-size", 8, "--depth", 1, "--num-heads", 2, "--patch-size", 4]
    length = ["--limit", 64, "--batch-size", 16, "--epochs", 4]
    assert command("train", "--data", "digits", "--run", folder, *small, *length, "--averages") == 0
    return folder


def test_a_run_gives_averages_of_any_length(run, tmp_path, capsys):
    assert command("average", run) == 0
    assert "16 snapshots of 0.05 and 0.1, from update 1 to 16" in capsys.readouterr().out
    assert command("average", run, "--std", 0.15, "--target", tmp_path / "a.keras") == 0
    assert "the average of 0.15 of the training at update 16" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "a.keras")
    made = averages.reconstruct(run / "averages", 0.15)
    assert model.average is None
    for name, weight in keras_dit.training.checkpoints.names.of_weights(model.network).items():
        np.testing.assert_array_equal(array(weight), made.values[name])
    found = models.load(run, average_std=0.15)  # as `sample --average-std`
    for value, other in zip(found.diffusion.denoiser().values, model.network.weights, strict=True):
        np.testing.assert_array_equal(array(value), array(other))


def test_evaluate_sweeps_the_length(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path / "cache"))
    small = ["--num-images", 20, "--steps", 2, "--reference", "digits", "--out", tmp_path]
    assert command("evaluate", run, "--average-std", "0.05,0.2", *small) == 0
    rows = (tmp_path / "sweep.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["average-std", "0.05", "0.2"]
    assert rows[1].split(",")[1] != rows[2].split(",")[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["sample", "RUN", "--average-std", "0.05,0.1"], "several lengths in keras-dit evaluate"),
        (["sample", "RUN", "--average-std", "0.1", "--raw"], "different weights"),
        (["sample", "RUN", "--average-std", "0.289"], "--average-std|std must be"),
        (["average", "RUN", "--at", "3"], "go with --std"),
        (["average", "RUN", "--std", "0.1", "--target", "a.pt"], "must be a .keras file"),
        (["average", "nowhere", "--std", "0.1"], "no snapshots|no model|nowhere"),
        (["train", "--data", "digits", "--run", "X", "--ema", "0.9", "--averages"], "give one"),
        (["train", "--data", "digits", "--run", "X", "--averages", "0.1,0.05"], "rising"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    assert command(*[str(run) if o == "RUN" else o for o in options]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and any(part in error for part in says.split("|"))
    assert os.listdir(tmp_path) == []
