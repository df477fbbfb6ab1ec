"""Laws of a trained network changed for other data: what is kept is kept exactly."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import adapt, conditions, layers, processes
from keras_dit.networks.naming import of_weights
from keras_dit.networks.resizing import maps
from keras_dit.networks.resizing.classes import rows

NAMES = ["cat", "dog", "owl"]


def filled(network, seed=0):
    """The network with other weights than a new one's, which gives 0."""
    numbers = np.random.default_rng(seed)
    for weight in network.trainable_weights:
        weight.assign(0.3 * numbers.standard_normal(weight.shape))
    return network


def dit(shape=(8, 8, 1), patch_size=2, num_classes=3, **options):
    size = {"hidden_size": 8, "depth": 1, "num_heads": 2, **options}
    return filled(keras_dit.DiTModel(shape, patch_size, num_classes=num_classes, **size))


def modern(**options):
    """RMSNorm, SwiGLU, rotary positions and norms of queries and keys."""
    norm = layers.RMSNorm()
    attention = layers.SelfAttention(2, qk_norm=norm, positions=layers.Rotary())
    block = layers.AdaLNBlock(2, norm=norm, attention=attention, mlp=layers.SwiGLU())
    return dit(block=block, final_norm=norm, **options)


def given(network, y=0, seed=1):
    """What a network gives for two images, whose shape it has, numpy."""
    x = np.random.default_rng(seed).standard_normal((2, *network.image_shape)).astype("float32")
    return output(network, x, y)


def output(network, x, y=0):
    y = np.array([y, y]) if isinstance(y, int) else y
    return ops.convert_to_numpy(network(x, np.array([5.0, 700.0], "float32"), y))


def larger(x, times):
    """An image, each patch of two pixels of which was made larger by itself, bilinearly."""
    b, h, w, c = x.shape
    side = maps.bilinear(2, 2 * times)
    patches = x.reshape(b, h // 2, 2, w // 2, 2, c)
    patches = np.einsum("ai,ej,bhiwjc->bhawec", side, side, patches)
    return patches.reshape(b, times * h, times * w, c).astype("float32")


# The same thing


@pytest.mark.parametrize(("make", "policy"), [(dit, "mixed_bfloat16"), (modern, "bfloat16")])
def test_resized_to_the_same_thing_it_is_the_same(make, policy):
    network, said = make(dtype=policy), []
    same = {"num_classes": 3, "input_shape": (8, 8, 1), "patch_size": 2, "learned_variance": False}
    new = adapt.resize(network, **same, say=said.append)
    assert not said
    assert new is not network
    for ours, theirs in zip(new.weights, network.weights, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))
    assert new.get_config() == network.get_config()


def test_the_old_network_stays_as_it_was():
    network = dit()
    before, first = given(network), network.get_weights()
    new = adapt.resize(network, num_classes=2, patch_size=4, say=None)
    filled(new, seed=9)
    np.testing.assert_array_equal(given(network), before)
    for ours, theirs in zip(network.get_weights(), first, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_adapters_are_merged():
    network = dit()
    qkv = network.blocks[0].attention.qkv
    qkv.enable_lora(2)
    for weight in qkv.trainable_weights:
        weight.assign(0.1 * np.random.default_rng(3).standard_normal(weight.shape))
    new = adapt.resize(network, num_classes=5, say=None)
    assert not new.blocks[0].attention.qkv.lora_enabled
    np.testing.assert_allclose(given(new, 1), given(network, 1), atol=1e-5)


# Classes


def test_classes_go_on_by_name():
    network, said = dit(), []
    names = NAMES, ["owl", "pig", "cat"]
    new = adapt.resize(network, num_classes=3, class_names=names, say=said.append)
    np.testing.assert_array_equal(given(new, 0), given(network, 2))
    np.testing.assert_array_equal(given(new, 2), given(network, 0))
    np.testing.assert_array_equal(given(new, 3), given(network, 3))
    assert said == ["classes: 2 of 3 kept, by name: owl, cat; new: pig"]


@pytest.mark.parametrize(("count", "kept"), [(2, [0, 1]), (5, [0, 1, 2])])
def test_without_names_classes_go_on_by_number(count, kept):
    network = dit()
    new = adapt.resize(network, num_classes=count, class_names=(NAMES, None), say=None)
    for number, old in [*enumerate(kept), (count, 3)]:
        np.testing.assert_array_equal(given(new, number), given(network, old))


@pytest.mark.parametrize("keep", [{1: 2}, {"pig": "owl"}, {"pig": 2}])
def test_classes_may_be_told_where_to_start(keep):
    names = (NAMES, ["cat", "pig"])
    new = adapt.resize(dit(), num_classes=2, class_names=names, keep=keep, say=None)
    np.testing.assert_array_equal(given(new, 1), given(dit(), 2))
    assert all((given(new, 0) != given(dit(), old)).any() for old in range(4))


def test_new_classes_lie_as_the_old_ones_do():
    table = np.random.default_rng(0).normal(3.0, 0.5, (11, 400))
    new = rows(table, [None, 4, None, None])
    np.testing.assert_array_equal(new[[1, 4]], table[[4, 10]])
    drawn = new[[0, 2, 3]] - table[:10].mean(axis=0)
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - table[:10].std(axis=0).mean()) < 0.05
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.2  # each is another
    np.testing.assert_array_equal(rows(table, [None, 4, None, None]), new)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"class_names": (NAMES, ["a"])}, "Received: 1 names for 2 classes"),
        ({"class_names": ["cat", "pig"]}, "class_names must be a pair, names before and names"),
        ({"keep": {0: 3}}, r"keep must be a dict \{new: old\} of numbers of 0 ... 2"),
        ({"keep": {"pig": 0}}, "Received: 'pig'"),
    ],
)
def test_classes_that_are_not_there_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        adapt.resize(dit(), num_classes=2, **options)


# Images, patches, channels


def test_sines_are_computed_for_another_grid():
    said = []
    new = adapt.resize(dit(), input_shape=(12, 8, 1), say=said.append)
    fresh = keras_dit.DiTModel((12, 8, 1), 2, 8, 1, 2)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (new.positions, fresh.positions)))
    assert said == ["positions: computed for a grid of 6 x 4 patches, was 4 x 4"]


def test_other_positions_are_interpolated():
    """A table that is linear in row and column is so on every grid, inside its first centres."""
    network, said = dit(shape=(8, 12, 1)), []
    row, column = np.indices((4, 6))
    table = np.stack([row, column, row + column, np.ones_like(row)] * 2, axis=-1)
    network.positions.assign(table.reshape(1, 24, 8).astype("float32"))
    new = adapt.resize(network, input_shape=(16, 24, 1), say=said.append)
    found = ops.convert_to_numpy(new.positions).reshape(8, 12, 8)
    row, column = np.clip((np.indices((8, 12)) + 0.5) / 2 - 0.5, 0, None)
    row, column = np.minimum(row, 3), np.minimum(column, 5)
    np.testing.assert_allclose(found[..., 0], row, atol=1e-5)
    np.testing.assert_allclose(found[..., 2], row + column, atol=1e-5)
    assert said == ["positions: interpolated for a grid of 8 x 12 patches, was 4 x 6"]
    np.testing.assert_array_equal(maps.table(table.reshape(24, 8), (4, 6), (4, 6))[7], table[1, 1])


def test_without_spread_tokens_lie_between_those_of_before():
    new = adapt.resize(dit(), input_shape=(16, 8, 1), spread=False, say=None)
    found = ops.convert_to_numpy(new.positions).reshape(8, 4, 8)
    before = ops.convert_to_numpy(dit().positions).reshape(4, 4, 8)
    np.testing.assert_allclose(found[::2], before, atol=1e-6)
    row = np.arange(8) / 2  # the second half of a position is its row's
    expected = [np.sin(row), np.sin(0.01 * row), np.cos(row), np.cos(0.01 * row)]
    np.testing.assert_allclose(found[:, 1, 4:], np.transpose(expected), atol=1e-6)


def test_without_spread_rotary_positions_lie_between_them_too(tmp_path):
    """Twice: each pair is turned as if its token were where it was in a quarter of the rows."""
    new = adapt.resize(modern(), input_shape=(16, 8, 1), spread=False, say=None)
    new = adapt.resize(new, input_shape=(32, 8, 1), spread=False, say=None)
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    np.testing.assert_array_equal(given(loaded), given(new))
    rotary = loaded.blocks[0].attention.positions
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 8)).astype("float32")
    here, there = np.array([[4, 0], [8, 1], [0, 2]]), np.array([[1, 0], [2, 1], [0, 2]])
    turned = [ops.convert_to_numpy(r(x, p)) for r, p in ((rotary, here), (layers.Rotary(), there))]
    np.testing.assert_allclose(*turned, atol=1e-6)


@pytest.mark.parametrize("make", [dit, modern])
def test_an_image_made_larger_with_its_patches_gives_the_output_made_larger(make):
    """FlexiViT's pseudo-inverse, and the grid as it was: through the whole network."""
    network = make(learned_variance=True)
    new = adapt.resize(network, input_shape=(16, 16, 1), patch_size=4, say=None)
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 1)).astype("float32")
    expected = larger(output(network, x, 1), 2)
    np.testing.assert_allclose(output(new, larger(x, 2), 1), expected, atol=2e-4)


def test_a_map_that_was_made_larger_comes_back():
    kernel = np.random.default_rng(0).standard_normal((2 * 2 * 3, 5))
    up = maps.input_map(kernel, 2, 6, np.eye(3))
    side = maps.bilinear(2, 6)
    image = np.random.default_rng(1).standard_normal((2, 2, 3))
    resized = np.einsum("ai,bj,ijc->abc", side, side, image)
    np.testing.assert_allclose(resized.reshape(-1) @ up, image.reshape(-1) @ kernel, atol=1e-12)
    np.testing.assert_array_equal(maps.input_map(kernel, 2, 2, np.eye(3)).shape, kernel.shape)
    np.testing.assert_allclose(maps.input_map(kernel, 2, 2, np.eye(3)), kernel, atol=1e-14)


def test_grey_images_become_colours_and_go_back():
    network = dit()
    x = np.random.default_rng(2).standard_normal((2, 8, 8, 1)).astype("float32")
    colour = adapt.resize(network, input_shape=(8, 8, 3), say=None)
    found = output(colour, np.repeat(x, 3, axis=-1), 1)
    np.testing.assert_allclose(found, np.repeat(output(network, x, 1), 3, axis=-1), atol=1e-5)
    grey = adapt.resize(colour, input_shape=(8, 8, 1), say=None)
    np.testing.assert_allclose(output(grey, x, 1), output(network, x, 1), atol=1e-5)


def test_channels_of_another_kind_start_anew_and_say_so():
    said = []
    new = adapt.resize(dit(), input_shape=(8, 8, 4), say=said.append)
    assert said == ["maps of input and output: start anew, as 1 channels do not become 4"]
    assert not given(new).any()  # as that of a new network
    qkv = "block_0/attention/qkv/kernel"
    pair = (ops.convert_to_numpy(of_weights(each)[qkv]) for each in (new, dit()))
    np.testing.assert_array_equal(*pair)


def test_a_learned_variance_joins_at_zero_and_is_taken_off():
    network = dit()
    both = adapt.resize(network, learned_variance=True, say=None)
    found = given(both)
    np.testing.assert_array_equal(found[..., :1], given(network))
    assert not found[..., 1:].any()
    off = adapt.resize(dit(learned_variance=True), learned_variance=False, say=None)
    np.testing.assert_array_equal(given(off), given(dit(learned_variance=True))[..., :1])
    grey = dit(shape=(8, 8, 3), output_channels=6)
    assert adapt.resize(grey, input_shape=(8, 8, 1), say=None).output_channels == 2


# Conditions


def age():
    return conditions.Vector(2, mean=40, std=20)


def caption():
    return conditions.Tokens(6, length=4)


TOLD = {
    "num_classes": ({}, {"num_classes": 4}, {"label": np.array([1, 3])}),
    "vector": ({}, {"conditions": {"age": age()}}, {"age": np.ones((2, 2), "float32")}),
    "tokens": (
        {"num_classes": 3},
        {"conditions": {"caption": caption()}},
        {"caption": np.ones((2, 4, 6), "float32")},
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_can_be_told_anew_changes_nothing_at_first(kind):
    options, changes, told = TOLD[kind]
    network, said = dit(**{"num_classes": None, **options}), []
    new = adapt.resize(network, **changes, say=said.append)
    (note,) = said
    assert ": new" in note
    y = {**({"label": np.array([1, 1])} if options else {}), **told}
    y = y if len(new.conditions) > 1 else next(iter(told.values()))
    expected = given(network, 1 if options else None)
    np.testing.assert_allclose(given(new, y), expected, atol=1e-6)
    assert sorted(new.conditions) == sorted({*network.conditions, *told})


def test_a_new_condition_is_learned():
    """Zeros that add nothing have a gradient all the same."""
    new = adapt.resize(dit(num_classes=None), conditions={"age": age()}, say=None)
    model = keras_dit.Diffusion(new, process=processes.named("flow"))
    model.compile(keras.optimizers.Adam(0.05))
    x, y = np.ones((4, 8, 8, 1), "float32"), np.array([[20, 5], [30, 6]] * 2, "float32")
    for _ in range(2):
        model.train_on_batch(x, y)
    assert all(ops.convert_to_numpy(weight).any() for weight in new.conditions["age"].weights)


def test_what_is_not_told_any_more_is_dropped():
    block = layers.AdaLNBlock(2, cross_attention=layers.CrossAttention(2))
    network, said = dit(conditions={"caption": caption()}, block=block), []
    new = adapt.resize(network, num_classes=None, conditions={}, say=said.append)
    assert not new.conditions
    assert said == ["label: dropped", "caption: dropped"]
    assert not any("cross_attention" in name for name in of_weights(new))
    assert np.isfinite(given(new, None)).all()


def test_a_condition_or_time_of_another_kind_starts_anew():
    network, said = dit(num_classes=None, conditions={"age": age()}), []
    time = conditions.TimestepEmbedding(frequency_shift=1)
    new = adapt.resize(
        network, conditions={"age": conditions.Vector(2, mean=4)}, time=time, say=said.append
    )
    assert said == [
        "age: new, without effect at first",
        "time: another embedding, which starts anew",
    ]
    assert new.time.frequency_shift == 1
    assert not ops.convert_to_numpy(new.conditions["age"].mlp_out.kernel).any()


# What is refused, and what goes on


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": 2}, "these can be others: num_classes, input_shape.*Received: depth=2"),
        ({"patch_size": 3}, "height and width must be multiples of patch_size"),
        ({"input_shape": (8, 8)}, "input_shape must be"),
        ({"num_classes": 0}, "num_classes must be"),
    ],
)
def test_what_makes_no_network_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        adapt.resize(dit(), **changes)


def test_what_is_no_dit_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sampling_network.*Received: Diffusion"):
        adapt.resize(keras_dit.Diffusion(dit()), num_classes=2)
    with pytest.raises(ValueError, match=r"must be a DiTModel. Received: Dense"):
        adapt.resize(keras.layers.Dense(3), num_classes=2)
    network = dit()
    network.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized"):
        adapt.resize(network, num_classes=2)


def test_a_resized_network_saves_and_loads(tmp_path):
    new = adapt.resize(modern(), num_classes=2, input_shape=(8, 12, 3), patch_size=4, say=None)
    model = keras_dit.Diffusion(new, process=processes.named("flow"), class_names=["a", "b"])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(given(again.network, 1), given(new, 1))
    assert again.class_names == ("a", "b")


# Frozen weights


def test_a_frozen_weight_does_not_move_while_others_do_and_a_file_keeps_it(tmp_path):
    network, said = dit(), []
    before = {name: ops.convert_to_numpy(w).copy() for name, w in of_weights(network).items()}
    frozen = adapt.freeze(network, "block_0/(attention|mlp)|patches", say=said.append)
    assert "block_0/attention/qkv/kernel" in frozen
    assert "block_0/modulation/kernel" not in frozen
    (sentence,) = said
    assert sentence.startswith(f"frozen: {len(frozen)} of 21 weights, ")
    model = keras_dit.Diffusion(network, ema=0.5)
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1))
    for _ in range(2):
        model.train_on_batch(np.ones((4, 8, 8, 1), "float32"), np.array([0, 1, 2, 0]))
    for name, weight in of_weights(network).items():
        moved = (ops.convert_to_numpy(weight) != before[name]).any()
        assert moved == (name not in frozen and name != "positions"), name
    for name in frozen:
        average = ops.convert_to_numpy(model.average.by_name()[name])
        np.testing.assert_array_equal(average, before[name])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    names = [name for name, w in of_weights(again.network).items() if not w.trainable]
    assert names == ["positions", *frozen]
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (ours, theirs)))
    adapt.unfreeze(again.network)
    assert len(again.network.trainable_weights) == 21
    assert "frozen" not in again.network.get_config()
    assert "frozen" not in adapt.resize(network, num_classes=4, say=None).get_config()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("blok", "of block_0.*Received: 'blok', which matches no weight to train"),
        (".", "which matches all weights"),
        ("(", "must be a regular expression"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused(pattern, says):
    with pytest.raises(ValueError, match=says):
        adapt.freeze(dit(), pattern)


# Files from elsewhere


@pytest.fixture
def file(tmp_path):
    """As facebookresearch/DiT writes it, with the names of its classes."""
    network = dit(shape=(8, 8, 4), learned_variance=True)
    path = tmp_path / "dit.pt"
    keras_dit.weights.export(network, path, class_names=NAMES, process=processes.named("dit"))
    return path


def test_a_file_loads_for_other_data(file):
    said, network = [], keras_dit.weights.load(file)
    options = {"num_classes": 2, "input_shape": (12, 8, 4), "class_names": ["pig", "owl"]}
    new = keras_dit.weights.load(file, **options, say=said.append)
    assert (new.num_classes, new.image_shape) == (2, (12, 8, 4))
    assert said == [
        "classes: 1 of 2 kept, by name: owl; new: pig",
        "positions: computed for a grid of 6 x 4 patches, was 4 x 4",
    ]
    tables = (ops.convert_to_numpy(each.label.table) for each in (new, network))
    np.testing.assert_array_equal(*(table[row] for table, row in zip(tables, (1, 2))))
    assert keras_dit.weights.load(file, patch_size=4, say=None).config["patch_size"] == 4
    assert keras_dit.weights.load(file, num_classes=None, say=None).num_classes is None


def test_a_file_comes_with_its_process_for_other_data(file, capsys):
    model = keras_dit.Diffusion.from_preset(file, num_classes=2)
    assert "kept, by number" in capsys.readouterr().out
    assert model.class_names is None
    assert model.process == processes.named("dit")
    names = ["owl", "cat"]
    model = keras_dit.Diffusion.from_preset(file, num_classes=2, class_names=names)
    assert model.class_names == ("owl", "cat")
    swapped = keras_dit.Diffusion.from_preset(file, class_names=["owl", "dog", "cat"], say=None)
    tables = [ops.convert_to_numpy(each.network.label.table) for each in (model, swapped)]
    np.testing.assert_array_equal(tables[0][:2], tables[1][[0, 2]])
    flow = processes.named("flow")
    plain = keras_dit.Diffusion.from_preset(file, learned_variance=False, process=flow, say=None)
    assert plain.network.output_channels == 4
