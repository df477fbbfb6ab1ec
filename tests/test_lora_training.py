"""Laws of training adapters (LoRA): the average, checkpoints, files of models, and the command."""

import keras
import numpy as np
import pytest
from keras import ops
from reference import draw_weights, weights_of

from keras_dit import Diffusion, DiTModel, adapt, checkpoints
from keras_dit.backend import BACKEND
from keras_dit.checkpoints import Checkpoint
from keras_dit.datasets import ImageBatches

IMAGES = np.random.default_rng(0).uniform(-1, 1, (12, 4, 4, 1)).astype("float32")
LABELS = np.arange(12) % 3


def make(seed=1, base=0, rank=2):
    """A model with adapters, whose network has the weights of that number."""
    keras.utils.set_random_seed(seed)
    network = DiTModel((4, 4, 1), 2, hidden_size=8, depth=1, num_heads=2, num_classes=3)
    diffusion = Diffusion(draw_weights(network, seed=base), ema=0.9)
    adapt.add_lora(diffusion.network, rank)
    diffusion.compile(keras.optimizers.Adam(0.05), jit_compile=BACKEND == "jax")
    return diffusion


def fit(diffusion, folder, epochs):
    data = ImageBatches(IMAGES, LABELS, 4, seed=3)
    checkpoint = Checkpoint(folder, every=0, resume=True)
    diffusion.fit(data, epochs=epochs, callbacks=[checkpoint], verbose=0)
    return diffusion


def test_a_checkpoint_holds_adapters_alone_and_the_run_goes_on_bit_for_bit(tmp_path):
    whole = fit(make(), tmp_path / "whole", 2)
    fit(make(), tmp_path / "parts", 1)
    parts = fit(make(seed=7), tmp_path / "parts", 2)
    found, expected = weights_of(parts.network), weights_of(whole.network)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    averages = [model.average.by_name() for model in (whole, parts)]
    assert averages[0] and all(name.rpartition("/")[2].startswith("lora") for name in averages[0])
    for name, value in averages[0].items():
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (averages[1][name], value)))
        assert not np.array_equal(ops.convert_to_numpy(value), expected[name])
    arrays, _ = checkpoints.read(checkpoints.newest(tmp_path / "whole")[0])
    held = {name for name in arrays if name.startswith(("network/", "average/", "optimizer/"))}
    counters = {"average/updates", "optimizer/adam/iteration", "optimizer/adam/learning_rate"}
    assert all("lora" in name for name in held - counters)
    with pytest.raises(ValueError, match="of a network with other weights"):
        fit(make(base=5), tmp_path / "whole", 3)


def test_a_file_of_the_average_is_small_and_gives_what_it_samples_with(tmp_path):
    diffusion = make()
    diffusion.train_on_batch(IMAGES, LABELS)
    diffusion.train_on_batch(IMAGES, LABELS)
    adapt.save_lora(diffusion.network, tmp_path / "lora.safetensors", diffusion.average.values)
    network = make().network
    merged = adapt.merge_lora(adapt.load_lora(network, tmp_path / "lora.safetensors"))
    expected = weights_of(diffusion.sampling_network())
    for name, value in weights_of(merged).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    diffusion.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    for name, value in weights_of(loaded.sampling_network()).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    assert len(loaded.network.trainable_weights) == len(loaded.network.weights) - 1


def test_an_average_that_had_begun_keeps_what_it_knows():
    keras.utils.set_random_seed(0)
    network = DiTModel((4, 4, 1), 2, hidden_size=8, depth=1, num_heads=2, num_classes=3)
    diffusion = Diffusion(draw_weights(network), ema=0.9)
    diffusion.compile(keras.optimizers.Adam(0.05), jit_compile=BACKEND == "jax")
    for _ in range(3):
        diffusion.train_on_batch(IMAGES, LABELS)
    before = {n: ops.convert_to_numpy(a).copy() for n, a in diffusion.average.by_name().items()}
    adapt.add_lora(diffusion.network, 2)
    diffusion.average.settle()
    after = diffusion.average.by_name()
    assert set(before) < set(after)
    for name, value in before.items():
        np.testing.assert_array_equal(ops.convert_to_numpy(after[name]), value)
