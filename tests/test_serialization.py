"""Laws of keras_dit.serialization: what has a public constructor comes back from a file equal."""

import dataclasses
import inspect
import json

import keras
import pytest

from keras_dit import (
    caching,
    codecs,
    guidance,
    objectives,
    predictions,
    processes,
    schedules,
    solvers,
)
from keras_dit.serialization import Configurable

MODULES = (caching, codecs, guidance, objectives, predictions, processes, schedules, solvers)


# What has no defaults.
ARGUMENTS = {
    "Negative": {"told": {"text": "blurred", "age": [61.5, 2]}},
    "NegativeLabel": {"label": 3},
    "PerCondition": {"scales": {"label": 1.5, "text": 4.0}},
    "ArrayGrid": {"times": (1.0, 0.5)},
    "TokenDirections": {"student": 1, "teacher": 2},
    "TokenRelations": {"student": 1, "teacher": 2},
    "Process": {"schedule": schedules.LinearBeta(), "prediction": predictions.Noise()},
}


def public_classes():
    for module in MODULES:
        for value in vars(module).values():
            own = inspect.isclass(value) and value.__module__.startswith("keras_dit.")
            if value is codecs.Autoencoder:
                continue  # it holds weights: test_autoencoders.py
            if own and issubclass(value, Configurable) and is_registered(value):
                yield value


def is_registered(cls):
    return "keras_dit>" in keras.saving.get_registered_name(cls)


def examples():
    return [cls(**ARGUMENTS.get(cls.__name__, {})) for cls in public_classes()]


CHANGED = [
    caching.FirstBlockCache(0.3),
    caching.PeriodicCache(3),
    codecs.Pixels(0, 255),
    codecs.Latents(2.5),
    guidance.ClassifierFree(1.5, channels=3),
    guidance.Clipped(guidance.ClassifierFree(4.0), limit=2.0),
    objectives.MeanSquaredError(objectives.LogitNormalTimes(-0.4, 1.2), objectives.MinSNR(3.0)),
    predictions.LearnedVariance(predictions.V()),
    schedules.LinearBeta(steps=200, start=1e-3, end=0.1),
    schedules.CosineBeta(steps=50, offset=0.01, largest=0.9),
    solvers.DDIM(eta=0.3),
    solvers.DDPM(variance_fraction=0.7),
]


def through_json(value):
    text = json.dumps(keras.saving.serialize_keras_object(value))
    return keras.saving.deserialize_keras_object(json.loads(text))


@pytest.mark.parametrize("value", [*examples(), *CHANGED], ids=repr)
def test_an_object_is_its_fields(value):
    again = through_json(value)
    assert type(again) is type(value)
    assert again == value
    assert hash(again) == hash(value)


def test_every_family_is_there():
    """So that the test above cannot pass by finding nothing."""
    found = {c.__name__ for c in public_classes()}
    assert {type(value).__name__ for value in CHANGED} <= found


@pytest.mark.parametrize("value", examples(), ids=repr)
def test_nothing_can_be_changed_afterwards(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
