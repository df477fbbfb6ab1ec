"""What is given to `Diffusion`, checked on the host before any work is done with it."""

from typing import Any

import keras
import numpy as np
from keras import tree

from keras_dit import backend, notices

NO_OUTPUT = (
    "a Diffusion has no output for x alone: generate(labels=...) makes images, evaluate(x, y) "
    "gives the loss, denoiser() is E[x0 | x_t], and network(x, t, y) the network's output"
)


def compiling(arguments: dict) -> None:
    """Raise ValueError for arguments of `compile` that mean nothing here."""
    if arguments.get("loss") is not None or arguments.get("loss_weights") is not None:
        raise ValueError("the loss belongs to Diffusion(objective=...): compile takes none")
    for name in ("metrics", "weighted_metrics"):
        if arguments.get(name):
            raise ValueError(
                f"{name} would compare an output with a target, and a Diffusion has neither: fit "
                "and evaluate report the loss; generated images are scored by keras_dit.metrics, "
                f"in a callback for instance. Received: {name}={arguments[name]!r}"
            )


def replicated(optimizer: Any, model: Any) -> None:
    """Raise ValueError for an optimizer that the model's devices cannot move together."""
    if backend.can_decide(model):
        return
    decides = optimizer.gradient_accumulation_steps or model.network.compute_dtype == "float16"
    if decides or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "on several devices of TensorFlow Keras can neither scale a loss nor accumulate "
            "gradients: train in float32 or mixed_bfloat16, with larger batches, or on JAX or torch"
        )


def instance(name: str, value: Any, default: Any, kind: Any) -> Any:
    """The value, or the default for None; ValueError for anything that is not of that kind."""
    return kind.checked(name, default() if value is None else value)


def jit_compile(value: Any) -> None:
    """Raise ValueError unless it is True, False or "auto"."""
    if value not in (True, False, "auto"):
        raise ValueError(f'jit_compile must be True, False or "auto". Received: {value!r}')


def class_names(names: Any, network: Any) -> tuple[str, ...] | None:
    """The names of the classes as a tuple, or None; ValueError for another number of them."""
    if names is None:
        return None
    if len(names) != network.num_classes:
        raise ValueError(
            f"class_names must be one for each of {network.num_classes} classes. "
            f"Received: {len(names)} names"
        )
    return tuple(map(str, names))


def requested(
    network: Any, labels: Any = None, conditions: dict | None = None, num_images: int | None = None
) -> tuple[Any, int]:
    """What `generate` was asked for.

    Returns:
        The values of the conditions on the host, as `DiTModel.check` gives them, and how many
        images.
    """
    if not (conditions is None or isinstance(conditions, dict)):
        raise ValueError(f"conditions must be a dict of values by name. Received: {conditions!r}")
    given = dict(conditions or {})
    if labels is not None:
        if "label" in given:
            raise ValueError('labels is short for conditions={"label": ...}: give one of them')
        if network.num_classes is None:
            raise ValueError("the network has no classes (num_classes=None): give no labels")
        if isinstance(labels, (int, np.integer)) and not isinstance(labels, bool):
            raise ValueError(
                "labels must be a list with a class for each image, such as labels=[3, 3]; for "
                f"{labels} images give num_images={labels}. Received: labels={labels}"
            )
        given["label"] = list(np.atleast_1d(np.asarray(labels, dtype=object)))
    if not given:
        if not isinstance(num_images, (int, np.integer)) or num_images < 1:
            raise ValueError(
                f"give labels, or num_images of 1 or more. Received: num_images={num_images!r}"
            )
        return network.null(int(num_images)), int(num_images)
    checked = network.check(given)
    count = len(tree.flatten(checked)[0])
    if count == 0 or (num_images is not None and num_images != count):
        raise ValueError(f"num_images={num_images}, but there are {count} labels")
    return checked, count


def sample_shape(network: Any, codec: Any, image_size: Any) -> tuple[int, int, int]:
    """(H, W, C) of what the network sees of images of a size; None: the first that it is for.

    Raises:
        ValueError: for a size that it is not for.
    """
    channels = network.image_shape[-1]
    if image_size is None:
        return network.image_shape
    sides = (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)
    shapes = {codec.data_shape((*size, channels))[:2]: size for size in network.sizes}
    if sides not in shapes:
        allowed = " or ".join(f"{height} x {width}" for height, width in shapes)
        raise ValueError(
            f"the network makes images of {allowed}: adapt.resize makes one for others. "
            f"Received: image_size={image_size}"
        )
    return (*shapes[sides], channels)


def batch(images: Any, labels: Any, network: Any, codec: Any) -> None:
    """Raise ValueError unless images and labels fit the network; warn of a range that does not."""
    channels = network.image_shape[-1]
    forms = [codec.data_shapes((*size, channels)) for size in network.sizes]
    expected = [one for form in forms for one in form]
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1:] not in expected:
        shapes = (f"(batch, {', '.join(map(str, one))})" for one in expected)
        raise ValueError(
            "images must be (batch, height, width, channels), channels last, here "
            f"{' or '.join(shapes)}. Received: shape {shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"there are no images. Received: shape {shape}")
    if shape[1:] in [form[0] for form in forms]:
        _warn_of_range(np.asarray(images[:256]), codec)
    if network.told and labels is None:
        raise ValueError(f"{_words(network)}: give labels as y")
    missing = set(network.told) - set(network.named(labels))
    if missing:
        raise ValueError(f"{_words(network)}: y lacks {', '.join(sorted(missing))}")
    network.check(labels, shape[0])


def latents(files, codec):
    """Raise ValueError for latents of another autoencoder; warn of those that are badly scaled.

    Args:
        files: `datasets.LatentFiles`.
        codec: of the `Diffusion`.
    """
    made, own = files.facts.autoencoder, getattr(codec, "identity", None)
    if made.get("identity") != own:
        held = f"another one, {own}" if own else f"{codec}, which holds none"
        raise ValueError(
            f"the latents in {files.folder} are of the autoencoder {made.get('path') or ''} "
            f"({made.get('identity')}), and the codec is {held}. Give the codec of that file, or "
            "encode the images anew"
        )
    deviation = float(np.sqrt(np.mean((np.array(files.facts.deviation) * codec.scale) ** 2)))
    if not 0.5 <= deviation <= 2.0:
        notices.warn(
            f"the latents in {files.folder} have a deviation of {deviation:.3g} after the codec's "
            f"scale, where a diffusion expects about 1: a scale of {_unit(files)} gives that"
        )


def _unit(files):
    """The scale, one for all channels, by which latents are of unit size."""
    return f"{1 / np.sqrt(np.mean(np.array(files.facts.deviation) ** 2)):.4g}"


def _words(network):
    """What the network wants to be told, for a message."""
    if network.num_classes is not None and len(network.told) == 1:
        return f"the network has {network.num_classes} classes"
    return f"the network has the conditions {', '.join(network.told)}"


def _warn_of_range(images, codec):
    low, high = codec.low, codec.high
    slack = 0.5 * (high - low)  # noise-augmented images may overshoot a little
    if images.min() < low - slack or images.max() > high + slack:
        notices.warn(
            f"images are expected in [{low:g}, {high:g}] but reach from "
            f"{images.min():g} to {images.max():g}: scale them, or for 0 ... 255 use "
            "Diffusion(codec=keras_dit.codecs.Pixels(0, 255))"
        )
