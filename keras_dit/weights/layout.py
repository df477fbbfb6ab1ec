"""Where each tensor of facebookresearch/DiT lies in a `DiTModel`, and how it is turned.

The names of facebookresearch/DiT are the common ones here, with those that LightningDiT and JiT
have beside them: another format gives and takes its tensors under them. With D the hidden size, p
the patch, C and O the channels of input and output:

    a linear map       (out, in)      Keras: (in, out)
    the patches' map   (D, C, p, p)   Keras: (p p C, D)
    everything else    as it is
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.conditions import TimestepEmbedding
from keras_dit.layers import (
    AdaLNBlock,
    BottleneckPatchEmbedding,
    LayerNorm,
    PatchEmbedding,
    SwiGLU,
    sincos_positions,
)
from keras_dit.layers.parts import copy_part
from keras_dit.networks import DiTModel
from keras_dit.networks.naming import has_adapters
from keras_dit.notices import warn
from keras_dit.weights.files import Stored, some


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor of a network, asked of one that has no memory for its numbers.

    Args:
        config: arguments of `DiTModel` as a dict.
    """
    # Of any number of heads.
    small = {"name": "shapes", "num_heads": 1, **config, "depth": 1, "in_context_start": 0}
    network = backend.without_memory(lambda: DiTModel.from_config(small))
    patch = config["patch_size"]
    found = {}
    for name, variable in variables(network).items():
        shape = tuple(variable.shape)
        if name in _CONVOLUTIONS:
            side = 1 if name.startswith("x_embedder.proj2") else patch
            shape = (shape[1], shape[0] // side**2, side, side)
        found[name] = shape[::-1] if _transposed(name, shape) else shape
    first, start = "blocks.0.", {n: s for n, s in found.items() if not n.startswith("final_layer.")}
    others = {
        name.replace(first, f"blocks.{i}."): shape
        for i in range(1, config["depth"])
        for name, shape in found.items()
        if name.startswith(first)
    }
    return {**start, **others, **found}


_CONVOLUTIONS = tuple(f"x_embedder.{name}.weight" for name in ("proj", "proj1", "proj2"))


def maps(network):
    """{name: layer} of a `DiTModel`'s linear maps."""
    patches = {"x_embedder.proj": network.patches.projection}
    if isinstance(network.patches, BottleneckPatchEmbedding):
        patches = {
            "x_embedder.proj1": network.patches.inner,
            "x_embedder.proj2": network.patches.projection,
        }
    result = {
        **patches,
        "t_embedder.mlp.0": network.time.mlp_in,
        "t_embedder.mlp.2": network.time.mlp_out,
        "final_layer.linear": network.final.projection,
        "final_layer.adaLN_modulation.1": network.final.modulation,
    }
    for i, block in enumerate(network.blocks):
        mlp = ("w12", "w3") if isinstance(block.mlp, SwiGLU) else ("fc1", "fc2")
        result |= {
            f"blocks.{i}.attn.qkv": block.attention.qkv,
            f"blocks.{i}.attn.proj": block.attention.projection,
            f"blocks.{i}.mlp.{mlp[0]}": block.mlp_in,
            f"blocks.{i}.mlp.{mlp[1]}": block.mlp_out,
            f"blocks.{i}.adaLN_modulation.1": block.modulation,
        }
    return result


def _norms(network):
    """{name: layer} of a `DiTModel`'s norms."""
    result = {"final_layer.norm_final": network.final.norm}
    for i, block in enumerate(network.blocks):
        result |= {
            f"blocks.{i}.norm1": block.attention_norm,
            f"blocks.{i}.norm2": block.mlp_norm,
            f"blocks.{i}.attn.q_norm": block.attention.query_norm,
            f"blocks.{i}.attn.k_norm": block.attention.key_norm,
        }
    return result


def variables(network: DiTModel) -> dict:
    """{name: variable} of a `DiTModel`; where adapters (LoRA) are on, the kernel with them."""
    result = {
        "pos_embed": network.positions,
        "y_embedder.embedding_table.weight": network.label.table,
    }
    if network.in_context is not None:
        result["in_context_posemb"] = network.in_context.positions
    for name, layer in maps(network).items():
        result[f"{name}.weight"] = layer.kernel
        result |= {f"{name}.bias": layer.bias} if layer.use_bias else {}
    for name, norm in _norms(network).items():
        parts = {"weight": getattr(norm, "gain", None), "bias": getattr(norm, "bias", None)}
        result |= {f"{name}.{kind}": part for kind, part in parts.items() if part is not None}
    return result


def _transposed(name, shape):
    return len(shape) == 2 and not name.startswith("y_embedder")


def to_keras(name: str, array: np.ndarray) -> np.ndarray:
    """The numbers of a tensor as its variable holds them."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])  # (p p C, D)
    return array.T if _transposed(name, array.shape) else array


def to_foreign(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a variable as its tensor, of that shape, holds them."""
    if len(shape) == 4:
        width, channels, patch, _ = shape
        return array.reshape(patch, patch, channels, width).transpose(3, 2, 0, 1)
    return array.T if _transposed(name, shape) else array


def check(tensors: Mapping[str, Stored], config: Mapping[str, Any], path: Any) -> None:
    """Raise ValueError unless the tensors are those of a network of that configuration."""
    expected = shapes(config)
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        parts = [f"missing: {some(missing)}"] if missing else []
        parts += [f"unexpected: {some(extra)}"] if extra else []
        raise ValueError(f"{path} does not hold the tensors of a DiT: {'; '.join(parts)}")
    wrong = [
        f"{name} is {tensors[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise ValueError(f"{path} does not fit {_words(config)}: {some(wrong)}")


def _words(config):
    return "a DiT of " + ", ".join(f"{name}={value}" for name, value in config.items())


def load(tensors: Mapping[str, Stored], config: Mapping[str, Any], path: Any) -> DiTModel:
    """A network of that configuration with those tensors, read one after the other.

    Raises:
        ValueError: if they do not fit.
    """
    check(tensors, config, path)
    network = DiTModel.from_config(dict(config))
    broken = []
    for name, variable in variables(network).items():
        array = tensors[name].read()
        if not np.all(np.isfinite(array)):
            broken.append(name)
        variable.assign(to_keras(name, array).astype("float32"))
    if broken:
        warn(f"{path} holds NaN or infinite numbers in {some(broken)}")
    if own_positions(tensors, config):
        warn(f"{path} {OWN_POSITIONS}")
    return network


OWN_POSITIONS = "has positions of its own, not the usual sines and cosines: they are kept"


def own_positions(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> bool:
    """Whether the positions are others than a new network's, beyond rounding to bfloat16."""
    height, columns, _ = config["input_shape"]
    patch, tensor = config["patch_size"], tensors["pos_embed"]
    usual = sincos_positions(height // patch, columns // patch, config["hidden_size"])
    if tensor.shape != (1, *usual.shape):  # not of this shape of images: nothing to compare
        return False
    return not np.allclose(tensor.read()[0].astype("float32"), usual, rtol=0, atol=4e-3)


def check_parts(
    network: DiTModel,
    block: AdaLNBlock | None = None,
    final_norm: Any = None,
    patches: Any = None,
    in_context: Any = None,
    whose: str = "DiT",
) -> None:
    """Raise ValueError for other parts than a format's.

    Args:
        network: a `DiTModel`.
        block, final_norm, patches, in_context: those of the format; None: as DiT and diffusers
            have them.
        whose: the name of such a network, for the error.
    """
    time, config = network.time, network.config
    cut = {name: config[name] for name in ("patch_size", "hidden_size")}
    if block is None:
        epsilon = getattr(getattr(network.blocks[0], "mlp_norm", None), "epsilon", None)
        norms = (LayerNorm(), LayerNorm(epsilon or 1e-6))
        block = AdaLNBlock(config["num_heads"], config["mlp_ratio"], norm=norms)
    parts = {
        "block": (network.blocks[0], block),
        "final_norm": (network.final.norm, final_norm or LayerNorm()),
        "time": (
            time,
            TimestepEmbedding(time.hidden_size, frequency_shift=time.frequency_shift)
            if type(time) is TimestepEmbedding
            else TimestepEmbedding(),
        ),
        "patches": (
            network.patches,
            copy_part(patches or PatchEmbedding(**cut), "patches", network, **cut),
        ),
        "in_context": (network.in_context, in_context),
    }
    for name, (ours, theirs) in parts.items():
        if _saved(ours) != _saved(theirs):
            raise ValueError(
                f"a network of other parts than {whose}'s cannot be exported so. "
                f"Received: {name}={config[name]}"
            )


def _saved(part):
    """The configuration of a layer and of its parts, without what makes no other numbers."""

    def plain(value):
        if isinstance(value, dict):
            dropped = ("name", "dtype", "trainable", "build_config")
            return {key: plain(part) for key, part in value.items() if key not in dropped}
        return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value

    return plain(keras.saving.serialize_keras_object(part))


def save(network: DiTModel) -> dict[str, Stored]:
    """{name: `Stored`} of a network's tensors, float32, with its adapters (LoRA) merged.

    Raises:
        ValueError: for a network without classes, with other conditions, or quantized, which
            these formats do not know.
    """
    if network.num_classes is None:
        raise ValueError("a network without classes (num_classes=None) cannot be exported")
    others = [name for name in network.conditions if name != "label"]
    if others:
        raise ValueError(
            f"a network that is told more than its class cannot be exported. Received: {others}"
        )
    if network.quantized:
        raise ValueError("a quantized network cannot be exported: export it before quantize()")
    if has_adapters(network):
        warn("the network's adapters (LoRA) are merged into the weights that are exported")

    def stored(name, variable, shape):
        def read():
            array = ops.convert_to_numpy(ops.cast(variable, "float32"))
            return to_foreign(name, array, shape)

        return Stored(shape, read)

    expected = shapes(network.config)
    return {name: stored(name, v, expected[name]) for name, v in variables(network).items()}
