"""Images made for a score, what they are compared with, and the report of it."""

import http.server
import json
import os
import signal
import threading
import zipfile

import numpy as np
import pytest

import keras_dit
from keras_dit import datasets, evaluation, images
from keras_dit.evaluation import Pixels, Plan, classifier, keeping, production, references, storage

PLAN = Plan(num_images=48, steps=2, batch_size=16, seed=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is kept outside of the test."""
    monkeypatch.setenv("KERAS_DIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation"


@pytest.fixture(scope="module")
def model():
    network = keras_dit.DiTModel((8, 8, 1), 4, 8, 1, 2, num_classes=10)
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.1, w.shape) for w in network.get_weights()])
    return keras_dit.Diffusion(network, ema=None)


@pytest.fixture(scope="module")
def made(model):
    """The images of the plan, all at once: image i has the seed 3 + i."""
    found = model.generate(
        labels=np.arange(48) % 10, steps=2, seed=list(range(3, 51)), batch_size=48
    )
    return images.to_uint8(found)


def test_batches_that_do_not_divide_the_number_leave_no_trace(model, made, digits):
    report = evaluation.evaluate(
        model, digits, plan=Plan(num_images=25, steps=2, seed=3, batch_size=16)
    )
    taken = images.from_uint8(made[:25])
    real = images.from_uint8(images.to_uint8(datasets.load("digits", limit=200).images))
    expected = evaluation.frechet_distance(taken, real)
    assert report["Frechet distance of pixels"] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def digits():
    """A reference of 200 digits."""
    return evaluation.reference(datasets.load("digits", limit=200), Pixels())


# The images


def test_the_scores_are_those_of_the_images_made_at_once(model, made, digits):
    report = evaluation.evaluate(model, digits, plan=PLAN)
    taken = datasets.load("digits", limit=200)
    real = images.from_uint8(images.to_uint8(taken.images))
    expected = evaluation.frechet_distance(images.from_uint8(made), real)
    assert report["Frechet distance of pixels"] == pytest.approx(expected, rel=1e-9)
    precision, recall = evaluation.precision_recall(real, images.from_uint8(made))
    assert (report["precision_of_pixels"], report["recall_of_pixels"]) == (precision, recall)
    kernel = evaluation.kernel_distance(images.from_uint8(made), real, subset_size=48)
    assert report["kernel_distance_of_pixels"] == pytest.approx(kernel.mean, abs=0.02)


class Killed(BaseException):
    """As if the process were gone: nothing after it runs."""


@pytest.mark.parametrize("keep", ["images", "images.npz"])
def test_a_killed_run_goes_on_to_the_same_report(model, digits, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(production, "SECONDS", 0.0)  # the state is written after each batch

    def run(name, features):
        place = tmp_path / name
        return evaluation.evaluate(
            model, digits, features, PLAN, folder=place, keep=place / keep
        ).to_json()

    class Deadly(Pixels):
        calls = 0

        def __call__(self, batch):
            Deadly.calls += 1
            if Deadly.calls == 3:
                raise Killed
            return super().__call__(batch)

    whole = run("whole", Pixels())
    with pytest.raises(Killed):
        run("killed", Deadly())
    counting = Deadly()
    assert run("killed", counting) == whole
    assert Deadly.calls == 3 + 1  # three batches, of which two were done
    assert (tmp_path / "killed" / "report.json").read_text() == whole
    first, second = (tmp_path / name / keep for name in ("whole", "killed"))
    if keep.endswith(".npz"):
        first, second = np.load(first), np.load(second)
        np.testing.assert_array_equal(first["arr_0"], second["arr_0"])
        np.testing.assert_array_equal(first["arr_1"], np.arange(48) % 10)
    else:
        names = [f"{i:06d}.png" for i in range(48)]
        assert sorted(p.name for p in second.iterdir()) == names
        assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names)


def test_asked_to_end_it_writes_its_state_and_goes_on(model, digits, tmp_path):
    class Asking(Pixels):
        def __call__(self, batch):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(evaluation.Stopped, match="16 of 48 images are done") as stopped:
        evaluation.evaluate(model, digits, Asking(), PLAN, folder=tmp_path)
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    report = evaluation.evaluate(model, digits, Pixels(), PLAN, folder=tmp_path)
    assert report.to_json() == evaluation.evaluate(model, digits, plan=PLAN).to_json()


def test_an_interrupted_batch_is_not_counted(model, digits, monkeypatch):
    """Its estimates, which `generate` would give then, get into no score."""
    steps = []

    def interrupt(*_):
        steps.append(1)
        if len(steps) == 3:  # the first step of the second batch is done
            raise KeyboardInterrupt

    generate = model.generate_batches

    def interrupted(**request):
        return generate(**request, callback=interrupt)

    monkeypatch.setattr(model, "generate_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(model, digits, plan=PLAN)
    assert len(steps) == 3


def test_a_folder_with_other_settings_is_not_gone_on_with(model, digits, tmp_path):
    evaluation.evaluate(model, digits, plan=PLAN, folder=tmp_path)
    other = Plan(num_images=48, steps=3, batch_size=16, seed=3)
    with pytest.raises(ValueError, match=r"other settings \(steps\): choose another folder"):
        evaluation.evaluate(model, digits, plan=other, folder=tmp_path)


def test_what_cannot_be_scored_is_refused(model, digits):
    latents = keras_dit.DiTModel((8, 8, 4), 4, 8, 1, 2, num_classes=10)
    diffusion = keras_dit.Diffusion(latents, codec=keras_dit.codecs.Latents(), ema=None)
    with pytest.raises(ValueError, match="scores are of images: these are latents"):
        evaluation.evaluate(diffusion, digits, plan=PLAN)
    with pytest.raises(ValueError, match=r"two images or more.*Received: 1 image"):
        evaluation.evaluate(model, digits, plan=Plan(num_images=1, steps=1))
    with pytest.raises(ValueError, match="labels must be one of balanced, none, data"):
        Plan(labels="balancd")


def test_fewer_images_than_dimensions_is_said(model, digits):
    report = evaluation.evaluate(model, digits, plan=PLAN)
    assert "images: 48 images for 64 dimensions" in report.notes[0]
    assert "are no FID" in report.notes[-1]
    assert "FID" not in " ".join(score.name for score in report.scores)


def test_an_interval_is_around_its_score(model, digits):
    report = evaluation.evaluate(model, digits, plan=PLAN, bootstrap=20)
    low, high = report.scores[0].interval
    assert low < report.scores[0].value < high
    assert json.loads(report.to_json())["scores"]["frechet_distance_of_pixels"]["interval"]


# References


@pytest.fixture
def folder(tmp_path):
    """Twelve images of another size than is asked for."""
    rng = np.random.default_rng(0)
    for i in range(12):
        picture = rng.integers(0, 256, (12, 16, 3)).astype("uint8")
        images.save_png(tmp_path / "photos" / f"{i}.png", picture)
    return tmp_path / "photos"


class Counted(Pixels):
    """Pixels that count how many images they saw."""

    seen = 0

    def __call__(self, batch):
        Counted.seen += len(batch)
        return super().__call__(batch)


def test_a_reference_is_cropped_as_in_training_and_computed_once(folder, cache):
    Counted.seen = 0
    first = evaluation.reference(folder, Counted(), image_size=8)
    read = datasets.ImageFiles(sorted(folder.iterdir()), image_size=8)
    pixels = images.from_uint8(np.stack([read[i] for i in range(12)])).reshape(12, -1)
    moments = first.statistics.moments["pool"]
    np.testing.assert_allclose(moments.mean, pixels.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(pixels.T), rtol=1e-5, atol=1e-6)
    again = evaluation.reference(folder, Counted(), image_size=8)
    assert Counted.seen == 12
    np.testing.assert_array_equal(again.statistics.features, first.statistics.features)
    np.testing.assert_array_equal(again.statistics.moments["pool"].mean, moments.mean)

    os.utime(folder / "3.png", (0, 0))  # another file, for all that is known
    evaluation.reference(folder, Counted(), image_size=8)
    evaluation.reference(folder, Counted(), image_size=6)
    assert Counted.seen == 36
    assert len(list(cache.iterdir())) == 3


def test_a_batch_of_adm_is_a_reference(tmp_path, made):
    keeping.save_batch(tmp_path / "samples.npz", made, None)
    found = evaluation.reference(tmp_path / "samples.npz", Pixels())
    assert found.statistics.count == 48
    report = evaluation.compare(tmp_path / "samples.npz", found)
    assert report["Frechet distance of pixels"] < 1e-6
    assert report["precision of pixels"] == report["recall of pixels"] == 1.0


class Published(Pixels):
    """Stands for Inception's features, which take 0.1 s an image, and have 2048 dimensions."""

    name, published, digest = "Inception", True, "6726825d"

    def __call__(self, batch):
        pool = images.from_uint8(batch).reshape(len(batch), -1)
        return {"pool": pool, "spatial": pool[:, :7], "logits": pool[:, :5]}


def test_published_statistics_are_a_reference(tmp_path, monkeypatch, model, made):
    monkeypatch.setattr(references, "DIMENSIONS", 64)
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(64, 3))
    arrays = {"mu": rng.normal(size=64), "sigma": factor @ factor.T}
    np.savez(tmp_path / "adm.npz", **arrays, mu_s=np.ones(7), sigma_s=np.eye(7), arr_0=made[:20])
    report = evaluation.evaluate(model, tmp_path / "adm.npz", Published(), PLAN)
    names = [score.name for score in report.scores]
    assert names == ["FID", "sFID", "Inception score", "KID", "precision", "recall"]
    pool = Published()(made)["pool"].astype("float64")
    spatial, logits = pool[:, :7], pool[:, :5]
    expected = evaluation.frechet_distance_from_moments(
        spatial.mean(0), np.cov(spatial.T), np.ones(7), np.eye(7)
    )
    assert report["sFID"] == pytest.approx(expected, rel=1e-5)
    assert report["Inception score"] == pytest.approx(evaluation.inception_score(logits).mean)
    with pytest.raises(ValueError, match=r"moments of Inception's features.*the features pixels"):
        evaluation.evaluate(model, tmp_path / "adm.npz", Pixels(), PLAN)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"mu must be of shape \(64,\)"):
        evaluation.evaluate(model, tmp_path / "other.npz", Published(), PLAN)


# Features


def test_a_classifier_knows_the_classes_and_is_trained_once(monkeypatch):
    monkeypatch.setattr(classifier, "SEEN", 4000)
    data = datasets.load("digits", limit=1000)
    features = evaluation.open_features("classifier", data)
    digits, labels = datasets.load_digits()
    logits = features(images.to_uint8(digits))["logits"]
    assert np.mean(logits.argmax(1) == labels) > 0.7  # by chance 0.1
    monkeypatch.setattr(classifier, "trained", None)
    again = evaluation.open_features("classifier", data)
    assert again.digest == features.digest
    with pytest.raises(ValueError, match="a reference that has images and labels"):
        evaluation.open_features("classifier")


@pytest.fixture
def server(tmp_path):
    """A web server of a folder with one file."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "weights.pth").write_bytes(b"weights")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "web"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/weights.pth"
        running.shutdown()


def test_a_file_is_fetched_once_and_checked(server, tmp_path, cache):
    digest = "9b2cb5ddd1cd57f4ba4ed2acf12a97acd4be7a7d0e1f3e7e8b2d9d5c2b7c1e0a"
    with pytest.raises(ValueError, match="does not say its SHA-256"):
        storage.fetched(server)
    with pytest.raises(ValueError, match="is not the file that was expected"):
        storage.fetched(f"{server}#sha256={digest}")
    assert not list(cache.iterdir())
    digest = storage.sha256_of(tmp_path / "web" / "weights.pth")
    path = storage.fetched(f"{server}#sha256={digest}")
    (tmp_path / "web" / "weights.pth").unlink()
    assert storage.fetched(f"{server}#sha256={digest}") == path
    with pytest.raises(FileNotFoundError, match="get the file elsewhere"):
        storage.fetched(f"{server.replace('weights', 'other-12345678')}")


def test_features_of_nothing_known_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of pixels, classifier, or an existing file"):
        evaluation.open_features("pixel")
    with pytest.raises(FileNotFoundError, match=r"get https://github\.com/toshas"):
        evaluation.open_features(tmp_path / "nothing.pth")


def test_images_kept_are_an_archive_that_numpy_reads(tmp_path, made):
    batch = keeping.kept(tmp_path / "a.npz", made.shape)
    batch.write(0, made[:20])
    batch.write(20, made[20:])
    batch.finish(None)
    assert zipfile.ZipFile(tmp_path / "a.npz").namelist() == ["arr_0.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], made)
    gone = keeping.kept(tmp_path / "b.npz", made.shape)
    with pytest.raises(ValueError, match="are gone: begin anew"):
        gone.write(20, made[20:])
    with pytest.raises(ValueError, match=r"a folder or an \.npz file"):
        keeping.kept(tmp_path / "a.png", made.shape)
