"""Laws of what is prepared ahead: the same values, in whatever order they are asked for."""

import copy
import pickle
import threading

import numpy as np
import pytest

from keras_dit import datasets
from keras_dit.datasets.ahead import Ahead


def following(place):
    return place + 1


def test_values_do_not_depend_on_the_order_of_asking():
    ahead = Ahead(lambda place: place**2, following)
    places = np.random.default_rng(0).integers(0, 6, 300).tolist()  # rows of some length, and jumps
    assert [ahead(place) for place in places] == [place**2 for place in places]


def test_the_next_places_are_begun_before_they_are_asked_for_and_no_others():
    begun, third = [], threading.Event()

    def make(place):
        begun.append(place)
        if place == 3:
            third.set()
        return place

    ahead = Ahead(make, following, count=2)
    ahead(0)
    assert begun == [0]  # nobody has said that he goes on
    ahead(1)
    assert third.wait(60)  # without asking for it
    assert sorted(begun) == [0, 1, 2, 3]
    assert [ahead(2), ahead(3)] == [2, 3]
    assert sorted(begun)[:4] == [0, 1, 2, 3]
    assert max(begun) <= 5


def test_what_goes_wrong_is_raised_at_its_place():
    def make(place):
        if place == 2:
            raise OSError("cannot read 2")
        return place

    ahead = Ahead(make, following)
    assert [ahead(0), ahead(1)] == [0, 1]
    for _ in range(2):
        with pytest.raises(OSError, match="cannot read 2"):
            ahead(2)
    assert ahead(3) == 3


class Slowly:
    """Images that are no array, and know which threads have read them."""

    def __init__(self, images):
        self.images, self.shape, self.readers = images, images.shape, set()

    def __len__(self):
        return len(self.images)

    def read(self, indices, mirrored=None):
        self.readers.add(threading.current_thread().name)
        return self.images[indices]


def test_batches_of_files_are_those_of_their_arrays():
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 1)).astype("uint8")
    slowly = Slowly(images)
    options = {"batch_size": 3, "seed": 5}
    one = datasets.ImageBatches(images, np.arange(11), **options)
    other = datasets.ImageBatches(slowly, np.arange(11), **options)
    for batches in (other, copy.copy(other), pickle.loads(pickle.dumps(other))):
        for place in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (0, 1), (2, 2), (3, 0)]:
            for expected, found in zip(one.batch(*place), batches.batch(*place), strict=True):
                np.testing.assert_array_equal(expected, found)
    assert any(name.startswith("ahead") for name in slowly.readers)
