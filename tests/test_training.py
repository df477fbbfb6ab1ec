"""What a Keras user expects of Diffusion.fit, compile and callbacks: the table of docs/keras.md."""

import json
import sys

import keras
import numpy as np
import pytest
from keras import ops
from reference import Reconstruction, run, weights_of
from test_diffusion_fit import Batches, assert_same, averages, fixed, make, missing
from test_resume import KillAt, KilledError, numbers

import keras_dit
from keras_dit import backend, checkpoints
from keras_dit.backend import adam

IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 4, 4, 1)).astype("float32")
LABELS = np.arange(8) % 3


def updates(diffusion):
    return int(ops.convert_to_numpy(diffusion.average.updates))


# What a Diffusion has no meaning for


@pytest.mark.parametrize("call", ["predict", "predict_on_batch", "__call__"])
def test_no_output_is_made_up(call):
    with pytest.raises(NotImplementedError, match=r"generate\(labels=...\) makes images"):
        getattr(make(), call)(IMAGES)


@pytest.mark.parametrize("name", ["metrics", "weighted_metrics"])
def test_metrics_are_refused_with_what_to_use(name):
    with pytest.raises(ValueError, match=f"{name} would compare .* keras_dit.metrics"):
        make().compile("adam", **{name: ["mse"]})


def test_a_frozen_network_has_nothing_to_learn():
    diffusion = make(keras.optimizers.Adam(0.1))
    diffusion.network.trainable = False
    diffusion.compile(keras.optimizers.Adam(0.1), jit_compile="auto")
    before = weights_of(diffusion.network)
    with pytest.warns(UserWarning, match="nothing to train"):
        history = diffusion.fit(IMAGES, LABELS, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert_same(before, diffusion)


@pytest.fixture
def few_variants():
    """torch.compile runs as it is what has too many variants, as after some models."""
    if keras.config.backend() != "torch":
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("few_variants")
def test_a_step_may_be_compiled():
    # TensorFlow draws other numbers under XLA, so the losses are not those of a plain run.
    diffusion = make(keras.optimizers.Adam(0.01))
    before = weights_of(diffusion.network)
    diffusion.compile(diffusion.optimizer, jit_compile=True)
    history = diffusion.fit(IMAGES, LABELS, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["skipped"][-1] == 0
    after = weights_of(diffusion.network)
    assert any((before[name] != after[name]).any() for name in before)


# The optimizer's options


def test_the_average_moves_when_the_weights_do():
    diffusion = make(keras.optimizers.Adam(0.01, gradient_accumulation_steps=4), ema=0.5)
    before = weights_of(diffusion.network)
    for step in range(1, 9):
        diffusion.train_on_batch(IMAGES[:4], LABELS[:4])
        assert updates(diffusion) == step // 4
        if step == 3:
            assert_same(before, diffusion)
    assert int(ops.convert_to_numpy(diffusion.optimizer.iterations)) == 2


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16"])
def test_float16_gets_loss_scaling_wherever_it_was_asked_for(dtype):
    diffusion = make(keras.optimizers.SGD(0.1), changes={"dtype": dtype}, ema=0.5)
    assert isinstance(diffusion.optimizer, keras.optimizers.LossScaleOptimizer)
    diffusion.fit(IMAGES, LABELS, batch_size=4, verbose=0)
    skipped = int(ops.convert_to_numpy(diffusion.skipped))
    assert updates(diffusion) + skipped == 2
    diffusion.compile("sgd", auto_scale_loss=False)
    assert not isinstance(diffusion.optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_scaled_loss_that_is_not_finite_moves_nothing():
    """Its gradient may be finite: that of a label out of range is 0, of which Adam makes a step."""
    diffusion = make(keras.optimizers.Adam(0.1), changes={"dtype": "mixed_float16"}, ema=0.5)
    for _ in range(3):
        diffusion.train_on_batch(IMAGES, LABELS)
    before = weights_of(diffusion.network)
    diffusion.train_on_batch(IMAGES, LABELS + 7)
    assert_same(before, diffusion)


@pytest.mark.parametrize("name", adam.ADAM_NAMES)
def test_private_names_of_adam(name):
    """Gone from Keras: look in backend/adam.py for what Adam calls it now, or fuse no more."""
    optimizer = keras.optimizers.AdamW()
    optimizer.build([keras.Variable(np.zeros(2, "float32"))])
    assert hasattr(optimizer, name)


def adamw(weight, gradient, steps, rate=0.1, decay=0.004, clip=0.5):
    """AdamW as Keras makes it, in float64."""
    gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
    first = second = np.zeros_like(weight)
    for step in range(1, steps + 1):
        weight = weight - rate * decay * weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weight = weight - size * first / (np.sqrt(second) + 1e-7)
    return weight


@pytest.mark.skipif(backend.BACKEND != "torch", reason="torch alone makes its steps in fifteen")
@pytest.mark.parametrize(("name", "error"), [(adam.TORCH_ADAM, 2e-7), ("gone", 1e-5)])
def test_private_name_of_torch(monkeypatch, name, error):
    """Gone from torch: the plain step of Keras is made, and gives the same.

    But for rounding: Keras takes 1 - beta_2^t in float32, where beta_2^t is known to 6e-8 and the
    difference is 1e-3, so that its steps are wrong by some 1e-5 of their size. Torch's are not.
    """
    import torch

    assert hasattr(torch, adam.TORCH_ADAM)
    monkeypatch.setattr(adam, "TORCH_ADAM", name)
    start, gradient = np.array([1.0, -2.0]), np.array([3.0, 4.0])
    weight = keras.Variable(start.astype("float32"))
    optimizer = keras.optimizers.AdamW(0.1, global_clipnorm=0.5)
    optimizer.build([weight])
    for _ in range(3):
        backend.apply_gradients(optimizer, [ops.convert_to_tensor([3.0, 4.0])], [weight])
    np.testing.assert_allclose(weight.numpy(), adamw(start, gradient, 3), rtol=error)
    assert int(optimizer.iterations.value) == 3


@pytest.mark.parametrize("rate", [0.1, keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)])
def test_a_step_of_adamw_is_that_of_keras(rate):
    """But for rounding (above): those that are excluded do not decay, and gradients are clipped."""
    start = {"kernel": np.array([[1.0, -2.0]], "float32"), "bias": np.array([3.0], "float32")}
    gradients = [ops.convert_to_tensor(value * 2.0 + 1.0) for value in start.values()]
    found = []
    for apply in (backend.apply_gradients, lambda optimizer, *rest: optimizer.apply(*rest)):
        weights = [keras.Variable(value, name=name) for name, value in start.items()]
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1, global_clipnorm=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.build(weights)
        for _ in range(3):
            apply(optimizer, list(gradients), weights)
        assert int(ops.convert_to_numpy(optimizer.iterations.value)) == 3
        found.append([v.numpy() for v in [*weights, *optimizer.variables[2:]]])
    for ours, keras_s in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=2e-5)


def test_a_step_is_traced_once(monkeypatch):
    """Where it is: on torch it runs as it is."""
    runs = []

    def counted(*arguments):
        runs.append(None)
        return plain(*arguments)

    diffusion = make(keras.optimizers.AdamW(0.1))
    plain = diffusion.train_step
    monkeypatch.setattr(type(diffusion), "train_step", lambda _, *arguments: counted(*arguments))
    for _ in range(2):
        diffusion.train_on_batch(IMAGES, LABELS)
    assert len(runs) == (2 if backend.BACKEND == "torch" else 1)


def test_the_optimizer_that_was_passed_stays_as_it_was():
    optimizer = keras.optimizers.AdamW(0.1)
    own = set(vars(optimizer))
    diffusion = make(optimizer)
    assert diffusion.optimizer is optimizer
    assert set(vars(optimizer)) == own


# Weights that others set


def trained():
    diffusion = make(keras.optimizers.Adam(0.05), ema=0.9)
    diffusion.fit(IMAGES, LABELS, batch_size=4, epochs=2, verbose=0)
    return diffusion


def change_by_set_weights(diffusion, folder):
    diffusion.network.set_weights([w + 0.1 for w in diffusion.network.get_weights()])


def change_by_a_file(diffusion, folder):
    other = make().network
    other.set_weights([w + 0.1 for w in other.get_weights()])
    other.save_weights(folder / "it.weights.h5")
    diffusion.network.load_weights(folder / "it.weights.h5")


def change_one_number(diffusion, folder):
    table = diffusion.network.label.table
    value = ops.convert_to_numpy(table).copy()
    value[1, 2] += 1.0
    table.assign(value)


@pytest.mark.parametrize("change", [change_by_set_weights, change_by_a_file, change_one_number])
@pytest.mark.parametrize("loaded", [False, True])
def test_weights_that_others_set_are_what_generates(tmp_path, change, loaded):
    diffusion = trained()
    if loaded:
        diffusion.save(tmp_path / "it.keras")
        diffusion = keras.saving.load_model(tmp_path / "it.keras")
    change(diffusion, tmp_path)
    with pytest.warns(UserWarning, match="average starts anew"):
        copy = diffusion.sampling_network()
    assert_same(weights_of(diffusion.network), weights_of(copy))
    diffusion.train_on_batch(IMAGES, LABELS)
    assert updates(diffusion) == 1


def test_the_average_of_what_nobody_touched_stays(tmp_path, recwarn):
    diffusion = trained()
    before = averages(diffusion)
    diffusion.generate([0], steps=1)
    diffusion.evaluate(IMAGES, LABELS, verbose=0)
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    loaded.generate([0], steps=1)
    assert_same(before, averages(loaded))
    assert_same(before, averages(diffusion))
    assert not [w for w in recwarn if "average" in str(w.message)]


def test_the_average_follows_weights_that_come_and_go():
    """Those of an adapter join as copies, the others stay as they were; and it can be saved."""
    diffusion = trained()
    before = averages(diffusion)
    for block in diffusion.network.blocks:
        block.attention.qkv.enable_lora(2)
    diffusion.compile(keras.optimizers.Adam(0.05), jit_compile="auto")
    diffusion.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    named = diffusion.average.by_name()
    added = {name for name in named if "lora" in name}
    assert len(added) == 2 * len(diffusion.network.blocks)
    assert set(named) - added == set(before)
    assert updates(diffusion) == 5
    assert not any(
        np.array_equal(before[name], ops.convert_to_numpy(named[name]))
        for name in before
        if name.endswith("qkv/bias")
    )


def adapt(diffusion):
    for layer in diffusion.network.blocks[0]._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.enable_lora(2)


def test_a_file_has_adapters_merged_in_the_weights_and_in_their_average(tmp_path, recwarn):
    diffusion = trained()
    adapt(diffusion)
    diffusion.compile(keras.optimizers.Adam(0.05), jit_compile="auto")
    diffusion.train_on_batch(IMAGES, LABELS)
    copy = diffusion.sampling_network()
    assert not any("lora" in weight.path for weight in copy.weights)
    x, t = IMAGES[:3], np.array([1.0, 50.0, 900.0], "float32")
    found = run(copy, x, t, LABELS[:3])
    with backend.holding(diffusion.network, diffusion.denoiser().settled().values):
        np.testing.assert_allclose(run(diffusion.network, x, t, LABELS[:3]), found, atol=1e-5)
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(run(loaded.sampling_network(), x, t, LABELS[:3]), found, atol=1e-5)
    assert updates(loaded) == updates(diffusion)
    assert not [w for w in recwarn if "average" in str(w.message)]


def test_weights_that_came_after_compile_are_refused_by_name():
    diffusion = trained()
    adapt(diffusion)
    with pytest.raises(ValueError, match=r"such as .*lora_kernel_a.* compile again"):
        diffusion.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_is_saved_and_loaded(tmp_path, recwarn):
    diffusion = trained()
    diffusion.network.quantize("int8")
    with pytest.warns(UserWarning, match="average starts anew"):
        images = diffusion.generate([0, 1], steps=2)
    diffusion.save(tmp_path / "it.keras")
    recwarn.clear()
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(loaded.generate([0, 1], steps=2), images, atol=1e-5)
    assert not [w for w in recwarn if "average" in str(w.message)]


def test_the_average_s_variables_are_named_after_the_weights():
    """So that the rules of a LayoutMap that place a weight place its average too."""
    diffusion = make()
    for weight in diffusion.network.weights:
        name = weight.path.removeprefix(f"{diffusion.network.name}/")
        assert diffusion.average.by_name()[name].path == f"average/{name}"


# Callbacks


class Foolish(keras.callbacks.Callback):
    """Keeps and logs whatever it has."""

    def on_epoch_end(self, epoch, logs=None):
        self.score, self.phase = np.float32(epoch), 1j
        logs |= {
            "score": np.float64(epoch),
            "tensor": ops.convert_to_tensor(2.5),
            "variable": keras.Variable(3.5),
            "array": np.zeros(3),
            "phase": np.complex64(1j),
            "object": self,
            "val_loss": "none",
        }


def test_what_callbacks_log_never_costs_a_checkpoint(tmp_path):
    diffusion = make()
    callbacks = [Foolish(), checkpoints.Checkpoint(tmp_path, every=0)]
    diffusion.fit(IMAGES, LABELS, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    facts = checkpoints.newest(tmp_path)[2]
    json.dumps(facts)
    row = facts["history"][1]
    assert (row["score"], row["tensor"], row["variable"]) == (1.0, 2.5, 3.5)
    assert not {"array", "phase", "object"} & set(row)


def test_unknown_versions_are_noted(tmp_path, monkeypatch):
    """As of tensorflow-cpu, or of a source checkout: they are facts, and stop nothing."""
    monkeypatch.delattr(sys.modules[backend.BACKEND], "__version__")
    diffusion = make()
    checkpoints.save(tmp_path / "it.safetensors", diffusion, {})
    versions = checkpoints.read(tmp_path / "it.safetensors")[1]["versions"]
    assert versions == {
        "keras_dit": keras_dit.__version__,
        "keras": keras.__version__,
        backend.BACKEND: "unknown",
    }


# Sample weights have one meaning on all ways in

WEIGHTS = np.array([10.0, 0.0, 1.0, 1.0, 2.0, 0.0, 3.0, 0.5], "float32")


class Weighted(Batches):
    def __init__(self, x, y, weight):
        super().__init__(x, y)
        self.weight = weight

    def __getitem__(self, index):
        return *super().__getitem__(index), self.weight[index * 4 : index * 4 + 4]


class Unlabelled(Weighted):
    def __getitem__(self, index):
        x, _, weight = super().__getitem__(index)
        return x, None, weight


def forms(labels):
    """(name, arguments of fit and evaluate)"""
    batches = Weighted(IMAGES, LABELS, WEIGHTS) if labels else Unlabelled(IMAGES, LABELS, WEIGHTS)
    y = {"y": LABELS} if labels else {}

    def generator():
        while True:
            yield from (batches[i] for i in range(2))

    def tf_dataset():
        import tensorflow as tf

        parts = (IMAGES, LABELS if labels else None, WEIGHTS)
        return {"x": tf.data.Dataset.from_tensor_slices(parts).batch(4)}

    def loader():
        import torch
        from torch.utils.data import DataLoader

        def collate(rows):
            x, label, weight = (np.stack(part) for part in zip(*rows, strict=True))
            first, second = torch.tensor(x), torch.tensor(weight)
            return first, torch.tensor(label) if labels else None, second

        rows = list(zip(IMAGES, LABELS, WEIGHTS, strict=True))
        return {"x": DataLoader(rows, batch_size=4, collate_fn=collate)}

    return {
        "arrays": lambda: {"x": IMAGES, **y, "sample_weight": WEIGHTS, "batch_size": 4},
        "lists": lambda: {
            "x": list(IMAGES),
            **({"y": LABELS.tolist()} if labels else {}),
            "sample_weight": WEIGHTS.tolist(),
            "batch_size": 4,
        },
        "batches": lambda: {"x": batches},
        "generator": lambda: {"x": generator()},
        "tf": tf_dataset,
        "loader": loader,
    }


def unconditional(labels):
    if labels:
        return fixed()
    return make(changes={"num_classes": None}, objective=Reconstruction())


KINDS = ["arrays", "lists", "batches", "generator"]
KINDS += [pytest.param("tf", marks=missing("tensorflow"))]
KINDS += [pytest.param("loader", marks=missing("torch"))]


@pytest.fixture(scope="module", params=[True, False], ids=["labels", "unconditional"])
def weighted(request):
    """By train_on_batch, which Keras gives the weights as they are."""
    diffusion = unconditional(request.param)
    y = LABELS if request.param else None
    before = diffusion.test_on_batch(IMAGES, y, WEIGHTS)
    unweighted = diffusion.test_on_batch(IMAGES, y)
    for part in (slice(0, 4), slice(4, 8)):
        diffusion.train_on_batch(IMAGES[part], None if y is None else y[part], WEIGHTS[part])
    return request.param, float(before), float(unweighted), weights_of(diffusion.network)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_sample_weights_have_one_meaning(weighted, tmp_path, kind, checkpoint):
    labels, loss, unweighted, expected = weighted
    assert abs(loss - unweighted) > 0.1
    way, diffusion = forms(labels)[kind], unconditional(labels)
    steps = {"steps": 2} if kind == "generator" else {}
    found = diffusion.evaluate(**way(), **steps, verbose=0)
    assert found == pytest.approx(loss, rel=1e-5)
    callbacks = [checkpoints.Checkpoint(tmp_path)] if checkpoint else []
    steps = {"steps_per_epoch": 2} if kind == "generator" else {}
    diffusion.fit(**way(), **steps, shuffle=False, verbose=0, callbacks=callbacks)
    assert_same(expected, diffusion, atol=1e-6)


def test_sample_weights_of_validation_count():
    diffusion = unconditional(False)
    expected = diffusion.test_on_batch(IMAGES, None, WEIGHTS)
    rows = {"validation_data": (IMAGES, None, WEIGHTS), "verbose": 0}
    diffusion.compile(keras.optimizers.SGD(0.0), jit_compile="auto")
    history = diffusion.fit(IMAGES, batch_size=4, **rows).history
    assert history["val_loss"] == [pytest.approx(float(expected), rel=1e-5)]


# What is plain is taken, the rest refused by name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": {"image": IMAGES, "label": LABELS}}, r"a dict of \['image', 'label'\]"),
        ({"x": iter([{"image": IMAGES, "label": LABELS}])}, r"a dict of \['image', 'label'\]"),
        ({"x": "photos"}, "Received: str"),
        ({"x": 7}, "Received: int"),
        ({"x": [IMAGES[0], IMAGES[0, :2]], "y": [0, 1]}, "must be of one shape"),
        ({"x": IMAGES, "y": np.eye(3)[LABELS]}, r"one-hot labels give labels.argmax"),
        ({"x": IMAGES, "y": LABELS * 1.0}, r'whole numbers give labels.astype\("int32"\)'),
        ({"x": IMAGES, "y": LABELS + 0.5}, "list of integers. Received"),
        ({"x": IMAGES, "y": LABELS, "sample_weight": np.ones(3)}, "sample_weight must be 8"),
        ({"x": Batches(IMAGES, LABELS), "y": LABELS}, "give no y and no sample_weight"),
    ],
)
@pytest.mark.parametrize("way", ["fit", "evaluate"])
def test_other_forms_are_refused_by_name(arguments, message, way):
    if way == "evaluate" and not hasattr(arguments["x"], "shape"):
        pytest.skip("looked at in one place")
    with pytest.raises(ValueError, match=message):
        getattr(make(), way)(**arguments, verbose=0)


# Floats of another width


@pytest.mark.parametrize("floatx", ["bfloat16", "float16", "float64"])
def test_losses_and_times_are_float32_whatever_floatx_is(tmp_path, floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        diffusion = make(keras.optimizers.SGD(0.01), ema=0.5)
        loss = next(metric for metric in diffusion.metrics if metric.name == "loss")
        assert loss.total.dtype == "float32"
        folder = tmp_path / "run"
        for epochs in (1, 2):
            callbacks = [checkpoints.Checkpoint(folder, every=0, resume=True)]
            diffusion.fit(
                IMAGES, LABELS, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks
            )
        images = diffusion.generate([0, 1], steps=2)
        assert images.dtype == np.float32
        assert np.isfinite(images).all()
        assert np.isfinite(diffusion.evaluate(IMAGES, LABELS, verbose=0))
        assert all(a.dtype == "float32" for a in diffusion.average.by_name().values())
    finally:
        keras.config.set_floatx(before)


# Resume, with every optimizer and option

OPTIMIZERS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {},
    "Adamax": {},
    "AdamW": {},
    "Ftrl": {},
    "Lamb": {},
    "Lion": {},
    "Muon": {},
    "Nadam": {},
    "RMSprop": {},
    "SGD": {},
    "ScheduleFreeAdamW": {},
    "Adam amsgrad": {"amsgrad": True},
    "AdamW use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "SGD use_ema": {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    "SGD nesterov": {"momentum": 0.9, "nesterov": True},
    "Adam accumulated": {"gradient_accumulation_steps": 2},
    "RMSprop centered": {"centered": True, "momentum": 0.9},
    "Adam clipped": {"global_clipnorm": 0.5},
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(tmp_path, case):
    kind = getattr(keras.optimizers, case.split()[0], None)
    if kind is None:
        pytest.skip("this Keras does not have it")

    def fit(place, seed, kill=None):
        keras.utils.set_random_seed(seed)
        optimizer = kind(0.01, **OPTIMIZERS[case])
        diffusion = make(optimizer, ema=0.9)
        callbacks = [checkpoints.Checkpoint(tmp_path / place, every=0, resume=True)]
        callbacks += [KillAt(kill)] if kill else []
        history = diffusion.fit(
            IMAGES, LABELS, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        return history.history, numbers(diffusion)

    whole = fit("a", 1)
    with pytest.raises(KilledError):
        fit("b", 1, kill=3)
    found = fit("b", 2)
    assert found[0] == whole[0]
    assert found[1].keys() == whole[1].keys()
    for name, value in whole[1].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)


# What fit takes beside a Checkpoint


@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_split": 0.25},
        {"steps_per_epoch": 3},
        {"class_weight": {0: 1.0, 1: 2.0, 2: 3.0}},
        {"validation_data": Batches(IMAGES, LABELS)},
        {"initial_epoch": 1},
        pytest.param(
            {"steps_per_execution": 2},
            marks=pytest.mark.skipif(backend.BACKEND == "torch", reason="Keras refuses it there"),
        ),
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_checkpoint_goes_with_what_keras_takes(tmp_path, arguments):
    """It trains as without one; and a run that was stopped ends as a whole one."""
    arguments = dict(arguments)
    several = {n: arguments.pop(n) for n in ("steps_per_execution",) if n in arguments}

    def fit(*callbacks):
        diffusion = fixed(ema=0.9)
        diffusion.compile(keras.optimizers.SGD(0.1), jit_compile="auto", **several)
        settings = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0}
        history = diffusion.fit(IMAGES, LABELS, **settings, **arguments, callbacks=callbacks)
        return history.history, weights_of(diffusion.network)

    plain = fit()
    with_one = fit(checkpoints.Checkpoint(tmp_path / "a", every=0))
    if "steps_per_epoch" not in arguments:
        assert with_one[0].keys() == plain[0].keys()
        for name, values in plain[0].items():
            np.testing.assert_allclose(with_one[0][name], values, rtol=1e-5, err_msg=name)
        assert_same(plain[1], with_one[1], atol=1e-6)
    with pytest.raises(KilledError):
        fit(checkpoints.Checkpoint(tmp_path / "b", every=0), KillAt(3 if not several else 2))
    resumed = fit(checkpoints.Checkpoint(tmp_path / "b", every=0, resume=True))
    assert resumed[0] == with_one[0]
    assert_same(with_one[1], resumed[1])


def test_a_split_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images on both sides"):
        callbacks = [checkpoints.Checkpoint(tmp_path)]
        make().fit(IMAGES, LABELS, validation_split=0.999, callbacks=callbacks, verbose=0)


def test_an_error_of_a_callback_comes_out_of_fit_as_it_is():
    """On JAX the weights are then with the step still, where the average cannot look at them."""

    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("broken")

    diffusion = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=2))
    diffusion.compile()
    with pytest.raises(RuntimeError, match="broken"):
        diffusion.fit(np.zeros((4, 4, 4, 1)), np.zeros(4, int), verbose=0, callbacks=[Breaks()])
