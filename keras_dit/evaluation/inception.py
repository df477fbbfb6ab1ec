"""The network of the FID: Inception of 2015, as its features are known.

    images → 299 × 299 (bilinear as TensorFlow 1 did it) → (x − 128) / 128 → 94 convolutions
    pool      the mean over the last 8 × 8 places, 2048 numbers      FID, KID, precision, recall
    spatial   the first 7 channels of one of the 17 × 17 maps        sFID
    logits    1008 classes                                           Inception score

A convolution is followed by a batch normalization and ReLU. With the moments that it has learned a
normalization is a scale and a shift of each channel, which are taken into the convolution here:

    γ (W ∗ x − μ) / √(σ² + 10⁻³) + β  =  (γ/√(σ² + 10⁻³)) W ∗ x  +  β − γ μ/√(σ² + 10⁻³)     (1)

Reference: Szegedy et al., Rethinking the Inception Architecture for Computer Vision (2015), in the
    form of TensorFlow's `classify_image_graph_def.pb`, which Heusel et al. (2017) took; its port in
    torch-fidelity, whose file of weights is read. The spatial features: Nash et al., Generating
    Images with Sparse Representations (2021), as in the evaluator of ADM.
"""

import os
import pathlib
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.serialization import register
from keras_dit.weights import files

__all__ = ["PUBLISHED", "URL", "Inception"]

URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED = "6726825d"  # how the SHA-256 of that file begins
SIDE, EPSILON, CLASSES, SPATIAL = 299, 1e-3, 1008, 7


class Conv(NamedTuple):
    """A convolution, by its name in torch-fidelity's file."""

    name: str
    filters: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padding: str = "same"


class Fork(NamedTuple):
    """Two convolutions of the same input, side by side."""

    first: Conv
    second: Conv


def _average(x):
    # Without the padding, as TensorFlow counts.
    return keras.layers.AveragePooling2D(3, 1, padding="same", dtype="float32")(x)


def _largest(x):
    return keras.layers.MaxPooling2D(3, 1, padding="same", dtype="float32")(x)


def _halved(x):
    return keras.layers.MaxPooling2D(3, 2, dtype="float32")(x)


STEM = (
    Conv("Conv2d_1a_3x3", 32, 3, 2, "valid"),
    Conv("Conv2d_2a_3x3", 32, 3, 1, "valid"),
    Conv("Conv2d_2b_3x3", 64, 3),
    _halved,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, 3, 1, "valid"),
    _halved,
)  # (35, 35, 192)


def _a(pooled):
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, 3),
            Conv("branch3x3dbl_3", 96, 3),
        ),
        (_average, Conv("branch_pool", pooled)),
    )


_B = (
    (Conv("branch3x3", 384, 3, 2, "valid"),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, 3),
        Conv("branch3x3dbl_3", 96, 3, 2, "valid"),
    ),
    (_halved,),
)


def _c(width):
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (_average, Conv("branch_pool", 192)),
    )


_D = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2, "valid")),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, 3, 2, "valid"),
    ),
    (_halved,),
)


def _e(pool):
    return (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            Fork(Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, 3),
            Fork(Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192)),
    )


BLOCKS = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),  # (35, 35, 288)
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),  # (17, 17, 768); mixed_6 of the graph of 2015
    "Mixed_6e": _c(192),
    "Mixed_7a": _D,
    "Mixed_7b": _e(_average),
    "Mixed_7c": _e(_largest),  # an oddity of the network of 2015
}  # (8, 8, 2048)
SPATIAL_MAP = "Mixed_6d.branch1x1"


def _convolved(conv, x, prefix, seen):
    layer = keras.layers.Conv2D(
        conv.filters,
        conv.kernel,
        conv.stride,
        conv.padding,
        activation="relu",
        kernel_initializer="zeros",  # random ones are compiled shape by shape on JAX: half a minute
        dtype="float32",
        name=(prefix + conv.name).replace(".", "_"),  # torch takes no dots
    )
    x = layer(x)
    seen[prefix + conv.name] = layer, x
    return x


def _applied(parts, x, prefix, seen):
    """Parts one after the other; `seen` gets each convolution and its output by name."""
    for part in parts:
        if isinstance(part, Conv):
            x = _convolved(part, x, prefix, seen)
        elif isinstance(part, Fork):
            sides = [_convolved(side, x, prefix, seen) for side in part]
            x = keras.layers.Concatenate(dtype="float32")(sides)
        else:
            x = part(x)
    return x


def _network():
    """Scaled images (B, 299, 299, 3) -> features; and the layers with weights by their names."""
    seen: dict[str, tuple] = {}
    inputs = keras.Input((SIDE, SIDE, 3), dtype="float32")
    x = _applied(STEM, inputs, "", seen)
    for name, branches in BLOCKS.items():
        sides = [_applied(branch, x, f"{name}.", seen) for branch in branches]
        x = keras.layers.Concatenate(dtype="float32")(sides)
    pool = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)  # (B, 2048)
    zeros = {"kernel_initializer": "zeros", "dtype": "float32"}
    last = keras.layers.Dense(CLASSES, use_bias=False, name="fc", **zeros)
    outputs = {"pool": pool, "spatial": seen[SPATIAL_MAP][1], "logits_unbiased": last(pool)}
    layers = {name: layer for name, (layer, _) in seen.items()}
    return keras.Model(inputs, outputs, name="network"), layers, last


def _places(size):
    """Of each of 299 places the two pixels between which it lies, and how far, float32 tensor."""
    places = np.arange(SIDE, dtype="float32") * np.float32(size / SIDE)
    low = places.astype("int32")
    share = ops.convert_to_tensor(places - low.astype("float32"))
    return low, np.minimum(low + 1, size - 1), share


def resized(images: Any) -> Any:
    """Images (B, H, W, C) -> (B, 299, 299, C), bilinear, as TensorFlow 1 resized.

    Pixel i of the result lies at i · size / 299: corners are not aligned, and pixels are points at
    their upper left corners, not areas.
    """
    _, height, width, _ = images.shape
    low, high, share = _places(width)
    left, right = (ops.take(images, index, axis=2) for index in (low, high))
    images = left + (right - left) * share[:, None]
    low, high, share = _places(height)
    top, bottom = (ops.take(images, index, axis=1) for index in (low, high))
    return top + (bottom - top) * share[:, None, None]


@register
class Inception(keras.Model):
    """The FID's Inception network, channels last; all weights are 0 unless from a file.

    It computes in float32 whatever the dtype policy, is not trained, and its features of an image
    do not depend on the others of the batch.

    Call:
        images uint8 (B, H, W, 3), or (B, H, W, 1) for grey ones, of any size -> dict of "pool"
        (B, 2048), "logits" (B, 1008), "logits_unbiased", the same without the bias of the last
        layer, which the Inception score is made of, and "spatial" (B, 17, 17, 7), float32.

    Raises:
        ValueError: for images of another dtype or shape.

    Example:

    ```python
    file = "weights-inception-2015-12-05-6726825d.pth"
    inception = keras_dit.evaluation.Inception.from_file(file)
    features = inception(images)["pool"]
    ```
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **{"dtype": "float32", **kwargs})
        self.network, self._convolutions, self._last = _network()
        self.bias = self.add_weight((CLASSES,), initializer="zeros", name="bias")
        self.trainable = False
        self.built = True

    def build(self, input_shape=None):
        """Nothing: the network is built at construction."""

    def call(self, images):
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape[1:]:
            raise ValueError(
                f"images must be of shape (B, H, W, 3) or (B, H, W, 1). Received: shape={shape}"
            )
        if keras.backend.standardize_dtype(images.dtype) != "uint8":
            raise ValueError(
                "images must be uint8; keras_dit.images.to_uint8 makes them so of floats in "
                f"[-1, 1]. Received: dtype={keras.backend.standardize_dtype(images.dtype)}"
            )
        if shape[-1] == 1:
            images = ops.repeat(images, 3, axis=-1)
        x = (resized(ops.cast(images, "float32")) - 128.0) / 128.0
        found = backend.in_parts(self.network, x)
        return {
            "pool": found["pool"],
            "logits": found["logits_unbiased"] + self.bias,
            "logits_unbiased": found["logits_unbiased"],
            "spatial": found["spatial"][..., :SPATIAL],
        }

    @classmethod
    def from_file(cls, path: str | os.PathLike | None = None, **kwargs: Any) -> "Inception":
        """The network with the weights of torch-fidelity's file, without PyTorch.

        Args:
            path: of the file, `.pth`, or `.safetensors` with the same names.
            **kwargs: as for a `keras.Model`, such as its name.

        Raises:
            FileNotFoundError: without such a file; it says where the file is to be had.
            ValueError: for a file that holds something else.
        """
        if path is None or not pathlib.Path(path).is_file():
            what = "no file was named" if path is None else f"there is no file {path}"
            raise FileNotFoundError(
                f"{what} with the weights of Inception: get {URL} (96 MB), and give its path"
            )
        tensors = {
            name: stored
            for name, stored in files.read(path).items()
            if not name.endswith("num_batches_tracked")
        }
        made = cls(**kwargs)
        made._check(path, tensors)
        made._load(tensors)
        return made

    def _shapes(self):
        """The shape of each tensor of the file by its name."""
        shapes = {"fc.weight": (CLASSES, self._last.kernel.shape[0]), "fc.bias": (CLASSES,)}
        for name, layer in self._convolutions.items():
            height, width, before, after = layer.kernel.shape
            shapes[f"{name}.conv.weight"] = (after, before, height, width)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.bn.{part}"] = (after,)
        return shapes

    def _check(self, path, tensors):
        wanted = self._shapes()
        found = {name: getattr(tensor, "shape", None) for name, tensor in tensors.items()}
        for missing, where in ((wanted.keys() - found.keys(), "lacks"),
                               (found.keys() - wanted.keys(), "has beside them")):  # fmt: skip
            if missing:
                raise ValueError(
                    f"{path} holds no weights of the Inception of {URL}: it {where} "
                    f"{files.some(sorted(missing))}"
                )
        for name, shape in wanted.items():
            if tuple(found[name]) != shape:
                raise ValueError(
                    f"{path}: {name} must be of shape {shape}. Received: {tuple(found[name])}"
                )

    def _load(self, tensors):
        def read(name):
            return np.asarray(tensors[name].read(), "float64")

        for name, layer in self._convolutions.items():
            scale = read(f"{name}.bn.weight") / np.sqrt(read(f"{name}.bn.running_var") + EPSILON)
            kernel = np.transpose(read(f"{name}.conv.weight"), (2, 3, 1, 0))
            shift = read(f"{name}.bn.bias") - scale * read(f"{name}.bn.running_mean")
            layer.set_weights([(kernel * scale).astype("float32"), shift.astype("float32")])  # (1)
        self._last.set_weights([read("fc.weight").T.astype("float32")])
        self.bias.assign(read("fc.bias").astype("float32"))
