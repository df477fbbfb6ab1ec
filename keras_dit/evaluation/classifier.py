"""A small classifier of the reference's classes: features for images as simple as digits.

Its distances are its own, comparable only with those of the same weights, and named so. It is
trained once for a data set, in less than a minute, and kept.
"""

import hashlib
import json
import math
import pathlib

import keras

from keras_dit.datasets import ImageBatches
from keras_dit.datasets.folders import decoded_whole
from keras_dit.evaluation import references, storage
from keras_dit.evaluation.features import Network
from keras_dit.files import beside
from keras_dit.progress import Bar

__all__ = ["features", "network", "trained"]

SEEN, BATCH, LARGEST, VERSION = 60_000, 128, 64, 1  # images in training, ..., pixels of a side


def network(image_shape: tuple[int, int, int], num_classes: int, seed: int = 0) -> keras.Model:
    """Images (B, H, W, C) in [−1, 1] -> "pool" (B, 64) and "logits" (B, K).

    Args:
        image_shape: (H, W, C).
        num_classes: K.
        seed: of the first weights.

    Example:

    >>> sorted(network((8, 8, 1), 10).output)
    ['logits', 'pool']
    """

    def layer(kind, size, *arguments, **settings):
        nonlocal seed
        seed += 1
        initializer = keras.initializers.HeNormal(seed)
        return kind(size, *arguments, kernel_initializer=initializer, dtype="float32", **settings)

    x = inputs = keras.Input(image_shape, dtype="float32")
    for filters, stride in ((16, 1), (32, 2), (32, 2)):
        look = {"padding": "same", "activation": "relu"}
        x = layer(keras.layers.Conv2D, filters, 3, stride, **look)(x)
    x = keras.layers.Flatten(dtype="float32")(x)
    pool = layer(keras.layers.Dense, 64, "relu")(x)
    logits = layer(keras.layers.Dense, num_classes)(pool)
    return keras.Model(inputs, {"pool": pool, "logits": logits}, name="classifier")


def trained(data: ImageBatches, seed: int = 0, verbose: bool = False) -> keras.Model:
    """A `network` that was trained on labelled images: 60 000 of them, some more than once.

    Args:
        data: the images with their labels.
        seed: of weights and order.
        verbose: whether to show a progress bar.

    Raises:
        ValueError: for images without labels, or with sides of more than 64 pixels.
    """
    if data.labels is None or data.num_classes is None:
        raise ValueError("the features classifier need a reference that has labels")
    if max(data.input_shape[:2]) > LARGEST:
        raise ValueError(
            f"the features classifier are for images of at most {LARGEST} x {LARGEST} pixels. "
            f"Received: {data.input_shape[0]} x {data.input_shape[1]}"
        )
    batches = ImageBatches(
        decoded_whole(data.images),
        data.labels.tolist(),
        min(BATCH, len(data.images)),
        seed=seed,
        class_names=data.class_names,
        threads=data.threads,
        value_range=data.value_range,
    )
    made = network(data.input_shape, data.num_classes, seed)
    model = keras.Model(made.input, made.output["logits"])
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    total = math.ceil(SEEN / batches.batch_size)
    look = {"desc": "training the classifier", "unit": " steps", "first": "compiling"}
    with Bar(total=total, disable=not verbose, **look) as bar:
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: bar.update())
        whole, rest = divmod(total, len(batches))
        settings = {"shuffle": False, "verbose": 0, "callbacks": [count]}
        if whole:
            model.fit(batches, epochs=whole, **settings)
        if rest:
            model.fit(batches, steps_per_epoch=rest, **settings)
    return made


def features(data: ImageBatches | None, folder: pathlib.Path | None, verbose: bool) -> Network:
    """The features of a classifier trained on this data, or kept from another time.

    Raises:
        ValueError: without labelled images.
    """
    if data is None:
        raise ValueError("the features classifier need a reference that has images and labels")
    facts = [VERSION, {**references.facts_of(data), "source": ""}]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    path = (folder or storage.cache_folder()) / f"classifier-{key}.keras"
    if not path.is_file():
        model = trained(data, verbose=verbose)
        with beside(path) as new:
            model.save(new)
    model = keras.saving.load_model(path, compile=False)
    return Network(model, name="classifier features")
