"""Laws of captioned digits: captions and scenes, what is drawn, and how it is counted."""

import numpy as np
import pytest

from keras_dit import datasets
from keras_dit.datasets import Scene, captioned, captioned_digits
from keras_dit.evaluation import count_scenes, judge_scene
from keras_dit.evaluation.scenes import find_things


@pytest.fixture(scope="module")
def drawn():
    images, captions = captioned_digits(300, seed=3)
    return images / 127.5 - 1, captions


def test_a_caption_says_all_of_its_scene():
    scenes = captioned.random_scenes(300, seed=1)
    assert {len(scene.things) for scene in scenes} == {1, 2}
    assert {scene.place for scene in scenes} == {None, *captioned.PLACES}
    assert [Scene.read(str(scene)) for scene in scenes] == scenes


@pytest.mark.parametrize("caption", ["", "a red", "a Red three", "a red three on a blue seven",
                                     "a red three above a blue seven."])  # fmt: skip
def test_other_sentences_are_refused(caption):
    with pytest.raises(ValueError, match=r'must be like "a green five" or .* left of'):
        Scene.read(caption)


def test_an_image_does_not_depend_on_how_many_there_are(drawn):
    fewer, captions = captioned_digits(20, seed=3)
    np.testing.assert_array_equal(fewer / 127.5 - 1, drawn[0][:20])
    assert captions == drawn[1][:20]
    others, _ = captioned_digits(20, seed=4)
    assert (others != fewer).any(axis=(1, 2, 3)).all()


def test_what_is_held_out_is_in_no_image():
    held = {captioned.Thing(*pair) for pair in captioned.HELD_OUT}
    assert len({thing.colour for thing in held}) == len(captioned.COLOURS)

    def things(scenes):
        return {thing for scene in scenes for thing in scene.things}

    seen = things(map(Scene.read, captioned_digits(1500)[1]))
    assert len(seen) == 60 - len(held) and not seen & held
    asked = captioned.random_scenes(200, among=captioned.HELD_OUT)
    assert all(set(scene.things) & held for scene in asked)
    assert things(asked) >= held


def test_a_program_finds_what_was_drawn(drawn):
    """All colours and places; of the digits all but a few that look like others to it too."""
    counts = count_scenes(*drawn)
    assert counts["colour"] == counts["place"] == 1.0
    assert counts["digit"] >= 0.97


def test_a_program_finds_what_is_wrong(drawn):
    """One thing at a time: another colour, another digit, the other side, a thing too few."""
    image, scene = next(
        (x, s) for x, s in zip(drawn[0], map(Scene.read, drawn[1])) if len(set(s.things)) == 2
    )
    first, second = scene.things
    assert all(judge_scene(image, scene))
    recoloured = scene._replace(things=(first._replace(colour=other(first.colour)), second))
    assert judge_scene(image, recoloured) == (False, True, True)
    renumbered = scene._replace(things=(first, second._replace(digit=(second.digit + 1) % 10)))
    assert judge_scene(image, renumbered) == (True, False, True)
    turned = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    assert judge_scene(image, scene._replace(place=turned[scene.place])) == (True, True, False)
    assert not any(judge_scene(image, Scene((first,))))
    assert not any(judge_scene(np.full_like(image, -1.0), scene))


def other(colour):
    names = list(captioned.COLOURS)
    return names[names.index(colour) - 1]


def test_noise_does_not_hide_things(drawn):
    noise = np.random.default_rng(0).normal(0, 0.1, drawn[0][:100].shape)
    counts = count_scenes(drawn[0][:100] + noise, drawn[1][:100])
    assert counts["colour"] == counts["place"] == 1.0
    assert len(find_things(np.full((32, 32, 3), -1.0))) == 0


def test_there_is_a_caption_for_each_image(drawn):
    with pytest.raises(ValueError, match="Received: 2 captions for 3 images"):
        count_scenes(drawn[0][:3], drawn[1][:2])


def test_the_data_set_by_its_name():
    data = datasets.load("captioned-digits", 64, limit=200, validation=0.1)
    assert data.input_shape == (32, 32, 3) and data.num_classes is None
    images, told = data.batch(0, 0)
    assert images.shape == (64, 32, 32, 3) and len(told["text"]) == 64
    assert count_scenes(images, told["text"])["place"] == 1.0  # each with its own caption
