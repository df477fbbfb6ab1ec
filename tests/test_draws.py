"""Laws of the numbers drawn on the host: pure functions of what they are drawn for."""

import pathlib

import numpy as np
import pytest

import keras_dit
from keras_dit import draws


def test_generators_are_numpys_philox_keyed_by_seed_index_and_stream():
    for seed, index, stream in ((0, 0, 0), (7, 2, 0), (2**64 - 1, 5, 1)):
        key = np.array([seed, index], "uint64")
        philox = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], "uint64"))
        expected = np.random.Generator(philox).standard_normal(5)
        np.testing.assert_array_equal(
            draws.generator(seed, index, stream).standard_normal(5), expected
        )


def test_orders_and_flips_are_numpys_raw_words():
    """Which numpy keeps from version to version, so that a run of long ago can go on."""
    for stream, draw in ((0, draws.permutation), (1, draws.flips)):
        key = np.array([5, 2], "uint64")
        philox = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], "uint64"))
        words = philox.random_raw(9)
        expected = words >= 2**63 if stream else np.argsort(words)
        np.testing.assert_array_equal(draw(9, 5, 2), expected)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None, "0", 2**64, float("nan")])
def test_a_seed_is_a_natural_number_of_64_bits(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer of 0 or more.*Received: seed="):
        draws.checked_seed(seed)


def test_a_seed_of_numpy_is_taken():
    assert draws.checked_seed(np.uint64(2**64 - 1)) == 2**64 - 1


def test_there_is_one_philox():
    package = pathlib.Path(keras_dit.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "np.random.Philox" in path.read_text()]
    assert found == ["draws.py"]
