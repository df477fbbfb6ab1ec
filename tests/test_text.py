"""Laws of free text: words and their numbers, the empty text, strings in every kind of data."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights

import keras_dit
from keras_dit.backend import BACKEND
from keras_dit.checkpoints import Checkpoint
from keras_dit.conditions import Label, Text, WordEncoder, words_of
from keras_dit.layers import AdaLNBlock, CrossAttention, InContextAttention, MeanPooling
from keras_dit.training.checkpoints.state import variables

SHAPE = (4, 4, 1)
TENSORFLOW = BACKEND == "tensorflow"  # where each kind of data would compile anew
CAPTIONS = ["a red three above a blue seven", "a green five", "", "a blue five left of a red seven"]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def encoder(**options):
    return WordEncoder(words_of(CAPTIONS), depth=1, num_heads=2, **options)


def make(attention="cross", **settings):
    blocks = {
        "cross": AdaLNBlock(2, cross_attention=CrossAttention(2)),
        "context": AdaLNBlock(attention=InContextAttention(2)),
    }
    settings.setdefault("conditions", {"text": Text(8, encoder(), pooling=MeanPooling())})
    return draw_weights(keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, block=blocks[attention], **settings))


def inputs(n=4):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (n, *SHAPE)).astype("float32"), np.full(n, 300.0, "float32")


# Words


def test_words_are_counted_in_one_order():
    assert words_of(["b a", "B c", None]) == ("b", "a", "c")
    assert words_of(["b a", "b c"], most=2) == ("b", "a")


@pytest.mark.parametrize("text", ["a red cat", "ROT, über\tgrün!", "漢字 a", " "])
def test_any_text_can_be_told_from_any_other(text):
    """Numbers of words and bytes can be read back: nothing is lost but case and spaces."""
    layer = encoder()
    numbers = layer.read([text], 64)[0]
    assert layer.count(text) == (numbers > 0).sum()
    words = [layer.words[n - 257].encode() if n > 256 else bytes([n - 1]) for n in numbers if n]
    assert b"".join(words).decode() == "".join(text.lower().split())


@pytest.mark.parametrize("words", [["two words"], ["Red"], ["a", "a"], [""]])
def test_words_that_no_text_could_have_are_refused(words):
    with pytest.raises(ValueError, match="words must be single words in lower case, each once"):
        WordEncoder(words)


# Values


def test_texts_are_checked_on_the_host():
    text = Text(8, encoder(), hidden_size=8, name="caption")
    read = text.check(["a red three", None, ""])
    np.testing.assert_array_equal((read > 0).sum(axis=1), [3, 0, 0])
    np.testing.assert_array_equal(read[1:], text.null(2))
    for same in (np.array(["a red three", "", ""]), ["a red three", b"", ""], read):
        np.testing.assert_array_equal(text.check(same, 3), read)
    np.testing.assert_array_equal(text.check("a red three"), read[:1])
    for values, message in [
        (["a red three"] * 3, "caption must be 2 in number. Received: 3"),
        ([3, 4], "caption must be a list of strings.* Received: 3"),
        (np.zeros((2, 8)), "caption must be a list of strings"),
        (["a " * 9, ""], "caption: a text must be of at most 8 tokens.*Received: 9 tokens"),
    ]:
        with pytest.raises(ValueError, match=message):
            text.check(values, 2)


# The network


@pytest.mark.parametrize("attention", ["cross", "context"])
def test_the_empty_text_is_nothing_said(attention):
    network, (x, t) = make(attention), inputs()
    said = numpy(network(x, t, network.check(CAPTIONS)))
    nothing = numpy(network(x, t))
    apart = np.abs(said - nothing).max(axis=(1, 2, 3))
    assert apart[2] < 1e-5 < 1e-3 < np.delete(apart, 2).min()
    dropped = {"text": np.array([True, False, False, True])}
    found = numpy(network(x, t, network.check(CAPTIONS), training=True, dropped=dropped))
    expected = np.where(dropped["text"][:, None, None, None], nothing, said)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_empty_text_is_seen_by_no_block_of_in_context_attention():
    """The network of the same weights without any text gives the same."""
    network, (x, t) = make("context"), inputs()
    plain = keras_dit.DiTModel(SHAPE, 2, 16, 1, 2)
    plain.set_weights([numpy(w) for w in network.weights if "/text/" not in w.path])
    found = numpy(network(x, t, network.check([""] * 4)))
    np.testing.assert_allclose(found, numpy(plain(x, t)), atol=1e-5)


def test_places_without_a_word_change_nothing():
    """Whatever stands there: a text says the same to a network of longer texts."""
    short, long = (draw_weights(built(Text(n, encoder(), hidden_size=8))) for n in (8, 13))
    long.set_weights(
        [w if w.shape == v.shape else np.concatenate([w, np.full((5, 8), 9.0)])
         for w, v in zip(short.get_weights(), long.get_weights())]
    )  # fmt: skip
    one, other = (text(text.check(CAPTIONS)) for text in (short, long))
    mask = numpy(one.mask)
    np.testing.assert_array_equal(numpy(other.mask), np.pad(mask, ((0, 0), (0, 5))))
    tokens, more = numpy(one.tokens), numpy(other.tokens)[:, :8]
    np.testing.assert_allclose(more[mask], tokens[mask], atol=1e-5)


def built(layer):
    layer.build(None)
    return layer


def test_the_order_of_words_is_heard():
    text = draw_weights(built(Text(8, encoder(), hidden_size=8)))
    told = text(text.check(["a red seven", "a seven red"]))
    one, other = numpy(told.tokens)[:, :3]
    assert np.abs(one[[0, 2, 1]] - other).max() > 1e-2


def test_the_vector_of_a_text_is_made_of_the_words_that_are_there():
    """W times their mean, whatever stands in the other places; of the empty text it is 0."""
    text = draw_weights(built(Text(8, encoder(), hidden_size=8, pooling=MeanPooling())))
    told = text(text.check(CAPTIONS))
    tokens, mask = numpy(told.tokens), numpy(told.mask)
    means = [
        x[there].mean(axis=0) if there.any() else np.zeros(8) for x, there in zip(tokens, mask)
    ]
    kernel = numpy(text.pooling.projection.kernel)
    np.testing.assert_allclose(numpy(told.vector), np.stack(means) @ kernel, atol=1e-5)
    spoiled = np.where(mask[..., None], tokens, np.nan).astype("float32")
    np.testing.assert_allclose(numpy(text.pooling(spoiled, mask)), numpy(told.vector), atol=1e-6)


def test_a_text_of_a_file_without_a_pooling_has_none():
    config = Text(8, encoder(), hidden_size=8).get_config()
    del config["pooling"]
    assert Text.from_config(config).pooling is None
    config = Text(8, encoder(), hidden_size=8, pooling=MeanPooling()).get_config()
    assert isinstance(Text.from_config(config).pooling, MeanPooling)


def test_a_text_is_a_layer_of_a_functional_model():
    text = Text(8, encoder(), hidden_size=8)
    numbers = keras.Input((8,), dtype="int32")
    model = keras.Model(numbers, text(numbers).tokens)
    read = text.check(CAPTIONS)
    np.testing.assert_allclose(numpy(model(read)), numpy(text(read).tokens), atol=1e-6)


# Training


def kinds_of_data(x, texts):
    """The same images and texts, in everything that `fit` takes them in."""
    yield "arrays", (x, np.array(texts))
    yield "lists", (x, {"text": texts})
    options = {"conditions": {"text": texts}, "batch_size": 4}
    yield "batches", (keras_dit.datasets.ImageBatches(x, **options),)
    yield "a generator", ((part for part in [(x[:4], texts[:4]), (x[4:], texts[4:])]),)
    if keras.backend.backend() == "torch":
        import torch

        rows = [(image, text) for image, text in zip(x, texts)]
        yield "a DataLoader", (torch.utils.data.DataLoader(rows, batch_size=4),)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        yield "tf.data", (tf.data.Dataset.from_tensor_slices((x, texts)).batch(4),)


def test_texts_train_from_every_kind_of_data():
    """Each way the text reaches the network: its table moves, for the words that were there."""
    x, texts = np.zeros((8, *SHAPE), "float32"), [*CAPTIONS, *CAPTIONS]
    diffusion = keras_dit.Diffusion(make(condition_dropout=0.0), ema=None)
    diffusion.compile(keras.optimizers.SGD(1e-2), run_eagerly=TENSORFLOW)
    table = diffusion.network.conditions["text"].encoder.table
    for kind, data in kinds_of_data(x, texts):
        before = numpy(table).copy()
        history = diffusion.fit(*data, batch_size=None if len(data) == 1 else 4, verbose=0)
        moved = np.abs(numpy(table) - before).max(axis=1) > 0
        assert np.isfinite(history.history["loss"]).all(), kind
        assert moved[257:].all() and not moved[1:257].any(), kind
    before = numpy(table).copy()
    diffusion.train_on_batch(x[:4], CAPTIONS)
    assert np.abs(numpy(table) - before).max() > 0
    assert np.isfinite(diffusion.evaluate(x, {"text": texts}, batch_size=4, verbose=0))


class StoppedError(Exception):
    """Stands for whatever ends a run."""


class StopAt(keras.callbacks.Callback):
    """Ends `fit` in this step of the first epoch, before its checkpoint."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step:
            raise StoppedError


def test_a_run_that_is_told_texts_goes_on_exactly(tmp_path):
    """In a new model, of other seeds: what is dropped, the encoder and its average are in it."""
    x = np.random.default_rng(0).uniform(-1, 1, (12, *SHAPE)).astype("float32")
    texts = [*CAPTIONS, *CAPTIONS, *CAPTIONS]

    def train(seed, folder, *stop):
        keras.utils.set_random_seed(seed)
        model = keras_dit.Diffusion(make(condition_dropout=0.5), ema=0.9)
        model.compile(keras.optimizers.AdamW(1e-2), jit_compile=BACKEND == "jax")
        data = keras_dit.datasets.ImageBatches(x, conditions={"text": texts}, batch_size=4, seed=3)
        checkpoint = Checkpoint(folder, every=0.0, resume=True)
        model.fit(data, epochs=2, verbose=0, callbacks=[*stop, checkpoint])
        named = {n: v for n, v in variables(model).items() if not n.startswith("metrics/")}
        return {name: np.array(numpy(value)) for name, value in named.items()}

    whole = train(1, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(1, tmp_path / "stopped", StopAt(2))
    again = train(99, tmp_path / "stopped")
    assert whole.keys() == again.keys()
    assert any("/text/" in name for name in whole)
    for name in whole:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)


def test_a_text_that_is_too_long_is_refused_before_the_first_step():
    diffusion = keras_dit.Diffusion(make(), ema=None)
    diffusion.compile()
    with pytest.raises(ValueError, match="text: a text must be of at most 8 tokens"):
        diffusion.fit(np.zeros((2, *SHAPE)), ["a red three", "a " * 9], verbose=0)


OTHER_PROCESS = """
import json, sys, keras, keras_dit, numpy as np
model = keras.saving.load_model(sys.argv[1])
made = model.generate(conditions={"text": json.loads(sys.argv[2])}, steps=2)
np.save(sys.argv[3], made)
"""


def test_text_comes_back_in_another_process(tmp_path):
    conditions = {"label": Label(3), "text": Text(8, encoder(), dropout=0.5)}
    diffusion = keras_dit.Diffusion(make(conditions=conditions), ema=None)
    texts = ["a red three", "five cats"]
    made = diffusion.generate(conditions={"text": texts}, steps=2)
    assert np.abs(made - diffusion.generate(num_images=2, steps=2)).max() > 1e-4
    diffusion.save(tmp_path / "model.keras")
    arguments = [str(tmp_path / "model.keras"), json.dumps(texts), str(tmp_path / "made.npy")]
    root = str(pathlib.Path(keras_dit.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": keras.backend.backend()}
    command = [sys.executable, "-c", OTHER_PROCESS, *arguments]
    subprocess.run(command, check=True, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), made, atol=1e-5)
