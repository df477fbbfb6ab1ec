"""Where each tensor of diffusers lies in an autoencoder of this package, and how it is turned.

The names of diffusers are the common ones here, with queries, keys and values in one tensor,
`to_qkv`: another format gives and takes its tensors under them. With I and O the channels of input
and output:

    a convolution   (O, I, h, w)   Keras: (h, w, I, O)
    a linear map    (O, I)         Keras: (I, O)
    a norm, a bias  as it is
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.codecs import AutoencoderKL, AutoencoderTiny
from keras_dit.layers import AttentionBlock, Convolution, GroupNorm, ResidualBlock
from keras_dit.notices import warn
from keras_dit.weights.files import Stored, joined, some

GROUPS = 32
Names = Callable[[str], list[str]]  # a common name -> those of a format, one or three


def variables(network: keras.Model) -> dict[str, Any]:
    """{name: variable} of an autoencoder; where adapters (LoRA) are on, the kernel with them."""
    walk = _walk_kl if isinstance(network, AutoencoderKL) else _walk_tiny
    return {name: v for place, layer in walk(network) for name, v in _leaves(place, layer)}


def shapes(kind: type, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor of an autoencoder of that class and configuration.

    Raises:
        ValueError: for a configuration that makes none.
    """
    network = backend.without_memory(lambda: kind(**{**config, "dtype": "float32"}))
    return {name: _foreign_shape(v.shape) for name, v in variables(network).items()}


def _walk_kl(network):
    """(name, layer) of an `AutoencoderKL`."""
    levels = len(network.config["channels"])
    for half in (network.encoder, network.decoder):
        for step in half.steps:
            if step.weights:
                yield f"{half.name}.{_place(step.name, half.name, levels)}", step
    for name in ("quant", "post_quant") if network.quant is not None else ():
        yield f"{name}_conv", getattr(network, name)


def _place(name, half, levels):
    """level_0_block_1 -> down_blocks.0.resnets.1, or up_blocks.3.resnets.1."""
    if name == "norm_out":
        return "conv_norm_out"
    if name == "mid_attention":
        return "mid_block.attentions.0"
    name = re.sub(r"^mid_block_(\d+)$", r"mid_block.resnets.\1", name)
    match = re.fullmatch(r"level_(\d+)_(.+)", name)
    if not match:
        return name
    level, rest = int(match[1]), match[2]
    rest = re.sub(r"^block_", "resnets.", re.sub(r"^attention_", "attentions.", rest))
    rest = {"down": "downsamplers.0.conv", "up": "upsamplers.0"}.get(rest, rest)
    if half == "decoder":
        return f"up_blocks.{levels - 1 - level}.{rest}"
    return f"down_blocks.{level}.{rest}"


def _walk_tiny(network):
    """(name, layer) of an `AutoencoderTiny`, whose layers diffusers numbers through."""
    for half in ("encoder", "decoder"):
        number = 0
        for step in getattr(network, half):
            if step.name == "decoder_conv_in":  # its ReLU is a layer there
                yield f"{half}.layers.0", step
                number = 2
                continue
            if step.name.endswith("_up"):
                number += 1  # the enlarging is a layer there
            parts = [layer for layer in backend.layers_of(step) if isinstance(layer, Convolution)]
            for i, conv in enumerate(parts):
                inner = f".conv.{2 * i}" if len(parts) > 1 else ""
                yield f"{half}.layers.{number}{inner}", conv
            number += 1


_PARTS = {
    ResidualBlock: {
        "norm1": "norm_1",
        "conv1": "conv_1",
        "norm2": "norm_2",
        "conv2": "conv_2",
        "conv_shortcut": "skip",
    },
    AttentionBlock: {"group_norm": "norm", "to_qkv": "qkv", "to_out.0": "projection"},
}


def _leaves(place: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """(name, variable) of a layer and its parts."""
    if type(layer) in _PARTS:
        for name, attribute in _PARTS[type(layer)].items():
            part = getattr(layer, attribute, None) or getattr(
                getattr(layer, "attention", None), attribute, None
            )
            if part is not None:
                yield from _leaves(f"{place}.{name}", part)
    elif isinstance(layer, GroupNorm):
        yield from ((f"{place}.weight", layer.gain), (f"{place}.bias", layer.bias))
    elif hasattr(layer, "conv"):
        yield from _leaves(f"{place}.conv", layer.conv)
    else:
        yield f"{place}.weight", layer.kernel
        if layer.bias is not None:
            yield f"{place}.bias", layer.bias


def _foreign_shape(shape):
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return outputs, inputs, height, width
    return tuple(reversed(shape))


def _to_keras(array):
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_foreign(array):
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


# From a format's names to the common ones, and back


def names_of(one: Callable[[str], str]) -> Names:
    """The names of a format that has queries, keys and values apart, as `to_q`, `to_k`, `to_v`."""

    def names(name):
        if ".to_qkv." not in name:
            return [one(name)]
        return [one(name.replace(".to_qkv.", f".to_{part}.")) for part in "qkv"]

    return names


def collected(
    tensors: Mapping[str, Stored], expected: Mapping[str, tuple], names: Names, path: Any
) -> dict[str, Stored]:
    """A format's tensors under the common names.

    Args:
        tensors: {name of the format: `Stored`}.
        expected: {common name: shape}, as of `shapes`.
        names: common name -> those of the format.
        path: where they are from.

    Raises:
        ValueError: for tensors that are missing, too many, or of another shape.
    """
    wanted = {name: names(name) for name in expected}
    known = {other for others in wanted.values() for other in others}
    missing = [name for others in wanted.values() for name in others if name not in tensors]
    extra = [name for name in tensors if name not in known]
    if missing or extra:
        parts = [f"missing: {some(missing)}"] if missing else []
        parts += [f"unexpected: {some(extra)}"] if extra else []
        raise ValueError(f"{path} does not hold the tensors of its autoencoder: {'; '.join(parts)}")
    wrong, result = [], {}
    for name, others in wanted.items():
        rows, *rest = expected[name]
        shape = (rows // len(others), *rest)
        found = [_linear(tensors[other], shape) for other in others]
        wrong += [
            f"{other} is {tensors[other].shape} instead of {shape}"
            for other, one in zip(others, found)
            if one.shape != shape
        ]
        result[name] = joined(found) if len(found) > 1 else found[0]
    if wrong:
        raise ValueError(f"{path} holds another autoencoder than it says: {some(wrong)}")
    return result


def _linear(tensor, shape):
    """A linear map that is stored as a convolution of one pixel, as the linear map."""
    if len(shape) == 2 and tensor.shape == (*shape, 1, 1):
        return Stored(shape, lambda: tensor.read()[:, :, 0, 0])
    return tensor


def separated(tensors: Mapping[str, Stored], names: Names) -> dict[str, Stored]:
    """The common tensors under the names of a format."""
    result = {}
    for name, tensor in tensors.items():
        others = names(name)
        for i, other in enumerate(others):
            result[other] = _part(tensor, i, len(others)) if len(others) > 1 else tensor
    return result


def _part(tensor, i, count):
    rows, *rest = tensor.shape
    size = rows // count
    return Stored((size, *rest), lambda: tensor.read()[i * size : (i + 1) * size])


# From the common names to a network, and back


def load(
    tensors: Mapping[str, Stored], kind: type, config: Mapping[str, Any], path: Any
) -> keras.Model:
    """An autoencoder with those tensors, which `collected` has checked, read one after another."""
    network = kind(**config)
    broken = []
    for name, variable in variables(network).items():
        array = np.asarray(tensors[name].read())
        if not np.all(np.isfinite(array.astype("float32"))):
            broken.append(name)
        variable.assign(_to_keras(array).astype("float32"))
    if broken:
        warn(f"{path} holds NaN or infinite numbers in {some(broken)}")
    return network


def save(network: AutoencoderKL | AutoencoderTiny) -> dict[str, Stored]:
    """{name: `Stored`} of an autoencoder's tensors, float32."""

    def stored(variable):
        def read():
            return _to_foreign(ops.convert_to_numpy(ops.cast(variable, "float32")))

        return Stored(_foreign_shape(variable.shape), read)

    return {name: stored(variable) for name, variable in variables(network).items()}


# What the shapes of a file's tensors say


def inferred(found: Mapping[str, tuple[int, ...]], names: Names, path: Any) -> dict[str, Any]:
    """The arguments of `AutoencoderKL` that follow from the shapes of a file's tensors.

    The number of groups does not: where 32 divides the channels it is taken for that of all that
    were published, else it is left out.

    Raises:
        ValueError: for what is no such autoencoder.
    """

    def shape(name):
        return found.get(names(name)[0])

    def count(pattern):
        number = 0
        while shape(pattern.format(number)) is not None:
            number += 1
        return number

    def attends(place):
        return shape(f"{place}.attentions.0.to_qkv.weight") is not None

    first, last = shape("encoder.conv_in.weight"), shape("encoder.conv_out.weight")
    levels = count("encoder.down_blocks.{}.resnets.0.conv1.weight")
    if not levels or not all(part is not None and len(part) == 4 for part in (first, last)):
        raise ValueError(f"{path} does not hold the tensors of an autoencoder, but {some(found)}")
    places = [f"encoder.down_blocks.{level}" for level in range(levels)]
    channels = tuple(shape(f"{place}.resnets.0.conv1.weight")[0] for place in places)
    return {
        "in_channels": first[1],
        "latent_channels": last[0] // 2,
        "channels": channels,
        "layers_per_block": count("encoder.down_blocks.0.resnets.{}.conv1.weight"),
        "quant_conv": shape("quant_conv.weight") is not None,
        "mid_attention": attends("encoder.mid_block"),
        "attention_levels": tuple(i for i, place in enumerate(places) if attends(place)),
        **({} if any(width % GROUPS for width in channels) else {"groups": GROUPS}),
        "dtype": "float32",
    }
