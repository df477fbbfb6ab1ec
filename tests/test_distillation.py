"""Laws of objectives.Distillation: what is compared, what moves, what a file holds."""

import dataclasses
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights

import keras_dit
from keras_dit import backend, objectives, predictions, processes, schedules
from keras_dit.objectives import Batch, Distillation, TokenDirections, TokenRelations

SHAPE = (4, 4, 1)
FLOW = processes.named("flow")
X = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype("float32")
Y = np.arange(8) % 2


def network(seed=0, width=16, depth=2, **settings):
    settings = {"num_classes": 2, **settings}
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, width, depth, 2, **settings), seed=seed)


def taught(objective, seed=1, **settings):
    student = keras_dit.Diffusion(network(seed, **settings), process=FLOW, objective=objective)
    return compiled(student)


def compiled(model):
    """Without XLA on TensorFlow, where it takes longer; it draws other numbers there too."""
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=backend.BACKEND == "jax")
    return model


@pytest.fixture(scope="module")
def teacher():
    return keras_dit.Diffusion(network(), process=FLOW, ema=None)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def arrays(variables):
    return [np.array(numpy(variable)) for variable in variables]


@dataclasses.dataclass(frozen=True)
class Known:
    """A denoiser by formula: it says 3 x_t + t."""

    schedule: object = FLOW.schedule
    prediction: object = FLOW.prediction

    def output(self, x_t, rates, condition=None):
        return 3.0 * x_t + ops.reshape(rates.t, (-1, 1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weighting", [objectives.EqualWeighting(), objectives.MinSNR(2.0)])
def test_the_loss_is_the_mean_of_two_errors(share, weighting):
    x0, noise = np.random.default_rng(1).standard_normal((2, 5, 3)).astype("float32")
    t = np.linspace(0.1, 0.9, 5, dtype="float32")
    x_t = (1 - t[:, None]) * x0 + t[:, None] * noise
    objective = Distillation(Known(), share=share, weighting=weighting)
    process = dataclasses.replace(FLOW, objective=objective)
    rates = FLOW.schedule(t)
    loss = objective.loss(
        lambda x, at: 2.0 * x, Batch(*map(ops.convert_to_tensor, (x0, noise))), rates, process
    )
    data = np.mean((2 * x_t - (noise - x0)) ** 2, axis=1)
    answer = np.mean((2 * x_t - (3 * x_t + t[:, None])) ** 2, axis=1)
    expected = (1 - share) * data + share * numpy(weighting(rates, FLOW.prediction)) * answer
    np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(teacher):
    """In training a student drops classes, and its teacher is told no class then either."""
    student = taught(Distillation(teacher, FLOW.objective, 1.0, hidden=TokenRelations(1, 1)), 0)
    loss = student.compute_loss(X, ops.convert_to_tensor(Y), training=True)
    np.testing.assert_allclose(numpy(loss), 0.0, atol=1e-10)


@pytest.fixture(scope="module")
def student(teacher):
    """One that has been at school: it alone has moved, and come nearer."""
    keras.utils.set_random_seed(0)
    student = taught(Distillation(teacher, FLOW.objective, 1.0, hidden=TokenDirections(1, 2)))
    fixed = [*teacher.network.weights, *student.objective.teacher.values]
    before = arrays(fixed)
    losses = student.fit(X, Y, batch_size=8, epochs=40, verbose=0).history["loss"]
    for old, new in zip(before, arrays(fixed), strict=True):
        np.testing.assert_array_equal(new, old)
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    return student


def test_a_step_is_given_the_teacher_s_numbers(student):
    """Else they would be part of its program."""
    given = {id(variable) for variable in student.non_trainable_variables}
    assert {id(variable) for variable in student.objective.teacher.values} <= given


def test_the_average_teaches():
    diffusion = keras_dit.Diffusion(network(depth=1), process=FLOW, ema=0.9)
    diffusion.average.update()
    draw_weights(diffusion.network, seed=5)
    diffusion.average.update()
    diffusion.average.trust()
    average = arrays(diffusion.average.values)
    held = objectives.Teacher(diffusion)
    diffusion.average.update()  # what it learns later changes nothing
    for one, other in zip(average, arrays(held.values), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not all(map(np.array_equal, average, arrays(diffusion.network.weights)))


def test_a_file_holds_the_student_alone(student, teacher, tmp_path):
    student.save(tmp_path / "student.keras")
    with zipfile.ZipFile(tmp_path / "student.keras") as file:
        file.extract("model.weights.h5", tmp_path)
    names = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda n, part: names.append(n) if isinstance(part, h5py.Dataset) else None)
    assert any("average" in name for name in names)
    assert not any("teacher" in name for name in names)
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert loaded.objective == dataclasses.replace(student.objective, teacher=None)
    assert np.isfinite(loaded.generate([0, 1], steps=1)).all()
    for use in (loaded.fit, loaded.evaluate):
        with pytest.raises(ValueError, match="saved without its teacher"):
            use(X, Y, batch_size=8, verbose=0)
    compiled(loaded).objective = dataclasses.replace(loaded.objective, teacher=teacher)
    # Both are evaluated at the same times and noise.
    losses = [one.evaluate(X, Y, batch_size=8, verbose=0) for one in (loaded, student)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    """Also with a teacher in half precision."""
    teacher = keras_dit.Diffusion(network(dtype="mixed_bfloat16", depth=1), process=FLOW, ema=None)

    def run(folder, epochs):
        keras.utils.set_random_seed(3)
        student = taught(Distillation(teacher, FLOW.objective), depth=1)
        checkpoint = keras_dit.checkpoints.Checkpoint(tmp_path / folder, 0.0, resume=True)
        student.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[checkpoint])
        return arrays(student.network.weights)

    whole = run("whole", 2)
    run("parts", 1)
    for one, other in zip(whole, run("parts", 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_teacher_may_say_more_than_its_student():
    """Of a variance, or nothing in channels that are not used: what is compared is the mean."""
    known = keras_dit.Diffusion(network(learned_variance=True), ema=None)
    plain = network(1)
    student = keras_dit.Diffusion(plain, objective=Distillation(known, share=1.0), ema=None)
    rates = student.schedule(np.full(8, 0.3, "float32"))
    batch = Batch(ops.convert_to_tensor(X), ops.zeros(X.shape), ops.convert_to_tensor(Y))

    def output(net):
        x_t, t = batch.noisy(rates), student.schedule.timestep(rates.t)
        return net(x_t, t, batch.condition)

    loss = student.objective.loss(lambda *_: output(plain), batch, rates, student.process)
    expected = (numpy(output(plain)) - numpy(output(known.network))[..., :1]) ** 2
    np.testing.assert_allclose(numpy(loss), expected.mean((1, 2, 3)), rtol=1e-4)


def test_hidden_tokens_are_those_between_the_blocks():
    net = network()
    given = X[:2], np.array([1.0, 500.0], "float32"), np.array([0, 2])

    def seen(x, t, y):
        image, (first, last) = net(x, t, y, hidden=(1, 2))
        tokens, context = net.embed(x, t, y)
        expected = net.run_blocks(net.blocks[:1], tokens, context)
        return image, net(x, t, y), first, expected, net.image(last, context)

    image, alone, first, expected, again = backend.compile_inference(seen)(*given)
    np.testing.assert_allclose(numpy(image), numpy(alone), atol=1e-6)
    np.testing.assert_allclose(numpy(first), numpy(expected), atol=1e-6)
    np.testing.assert_allclose(numpy(again), numpy(image), atol=1e-6)


def test_relations_are_those_of_any_turned_tokens():
    generator = np.random.default_rng(2)
    tokens = generator.standard_normal((2, 5, 4)).astype("float32")
    turn = np.linalg.qr(generator.standard_normal((8, 8)))[0][:4].astype("float32")  # 4 -> 8
    relations, directions = TokenRelations(1, 1), TokenDirections(1, 1)
    np.testing.assert_allclose(numpy(relations.error(tokens, 3 * tokens @ turn)), 0.0, atol=1e-10)
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    other = generator.standard_normal((2, 5, 4)).astype("float32")
    other_unit = other / np.linalg.norm(other, axis=-1, keepdims=True)
    products = unit @ unit.transpose(0, 2, 1) - other_unit @ other_unit.transpose(0, 2, 1)
    expected = (products**2).mean((1, 2))
    np.testing.assert_allclose(numpy(relations.error(tokens, other)), expected, rtol=1e-5)
    expected = 1 - (unit * other_unit).sum(-1).mean(-1)
    np.testing.assert_allclose(numpy(directions.error(tokens, other)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: Distillation("teacher.keras"), "must be a Diffusion or a Denoiser"),
        (lambda t: Distillation(t, share=1.5), "share must be in"),
        (lambda t: Distillation(t, "flow"), "data must be an object of a Objective class"),
        (lambda t: Distillation(t, hidden=2), "hidden must be"),
        (lambda t: TokenRelations(0, 1), "numbers of blocks, 1 or more"),
        (lambda t: processes.Process(
            schedules.RectifiedFlow(3.0), predictions.FlowVelocity(), Distillation(t)),
         "needs the schedule of its teacher"),
        (lambda t: processes.Process(
            schedules.RectifiedFlow(), predictions.CleanSample(), Distillation(t)),
         "needs the prediction of its teacher"),
        (lambda t: taught(Distillation(t), num_classes=3), "is told what its teacher is told"),
        (lambda t: taught(Distillation(t), num_classes=None), "is told what its teacher is told"),
        (lambda t: keras_dit.Diffusion(
            keras_dit.DiTModel((8, 8, 1), 2, 16, 1, 2), process=FLOW, objective=Distillation(t)),
         "is for the images of its teacher"),
        (lambda t: taught(Distillation(t, hidden=TokenRelations(3, 1))), "student must be a n"),
        (lambda t: taught(Distillation(t, hidden=TokenRelations(1, 3))), "teacher must be a n"),
        (lambda t: taught(Distillation(t, hidden=TokenDirections(1, 1)), width=8), "two widths"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message, teacher):
    with pytest.raises(ValueError, match=message):
        make(teacher)


def test_a_condition_whose_null_value_is_no_number_is_the_same_for_both():
    told = {"num_classes": None, "conditions": {"age": keras_dit.conditions.Vector(1)}}
    teacher = keras_dit.Diffusion(network(**told), process=FLOW, ema=None)
    model = taught(Distillation(teacher), **told)
    logs = model.train_on_batch(X, np.ones((8, 1), "float32"), return_dict=True)
    assert np.isfinite(logs["loss"])
