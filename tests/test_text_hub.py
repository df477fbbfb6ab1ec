"""Laws of texts that are embedded by a language model of keras-hub, on a random small one."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights

import keras_dit
from keras_dit.conditions import KerasHub, Text
from keras_dit.layers import AdaLNBlock, CrossAttention

keras_hub = pytest.importorskip("keras_hub")
SHAPE = (4, 4, 1)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "three", "blue", "##ish"]
TEXTS = ["a red three", "", "a reddish blue three"]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "bert"
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_hub.models.BertBackbone(len(WORDS), max_sequence_length=12, **sizes)
    backbone.save_to_preset(str(folder))
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True)
    tokenizer.save_to_preset(str(folder))
    return str(folder)


def test_embeddings_are_those_of_the_model(preset):
    """Whatever stands beside a text in a batch, and however long the texts may be."""
    text = Text(10, KerasHub(preset), hidden_size=8)
    tokens, mask = text.check([*TEXTS, None])
    assert mask.sum(axis=1).tolist() == [5, 0, 6, 0]  # with [CLS] and [SEP]
    backbone = keras_hub.models.Backbone.from_preset(preset)
    ids = np.array([[2, 5, 6, 7, 3]])
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": 0 * ids}
    expected = ops.convert_to_numpy(backbone(inputs)["sequence_output"])
    np.testing.assert_allclose(tokens[0, :5], expected[0], atol=1e-5)
    assert not tokens[~mask].any()


def test_the_model_is_asked_once_for_each_text(preset, monkeypatch):
    text = Text(12, KerasHub(preset), hidden_size=8)
    first = text.check(TEXTS)
    model = keras_dit.conditions.hub._opened(preset).model
    monkeypatch.setattr(model, "predict_on_batch", None)
    again = text.check([*TEXTS, *TEXTS])
    np.testing.assert_array_equal(again.tokens[3:], first.tokens)
    with pytest.raises(ValueError, match="at most 12 tokens"):
        text.check(["red " * 11])


def test_such_a_network_trains_and_comes_back_without_the_model(preset, tmp_path):
    block = AdaLNBlock(2, cross_attention=CrossAttention(2))
    conditions = {"text": Text(8, KerasHub(preset))}
    network = keras_dit.DiTModel(SHAPE, 2, 16, 1, 2, conditions=conditions, block=block)
    assert not any("bert" in weight.path for weight in network.weights)
    diffusion = keras_dit.Diffusion(draw_weights(network), ema=None)
    diffusion.compile(keras.optimizers.SGD(1e-2))
    images = np.zeros((6, *SHAPE), "float32")
    diffusion.fit(images, [*TEXTS, *TEXTS], batch_size=3, verbose=0)
    told = {"conditions": {"text": TEXTS}, "steps": 2}
    made = diffusion.generate(**told)
    nothing = diffusion.generate(num_images=3, steps=2)
    apart = np.abs(made - nothing).max(axis=(1, 2, 3))
    assert apart[1] < 1e-5 < 1e-4 < min(apart[0], apart[2])
    diffusion.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.generate(**told), made, atol=1e-5)
