"""Files of adapters, in the names and the layout of peft.

    base_model.model.LAYER.lora_A.weight   (r, in), of a convolution (r, C, p, p)
    base_model.model.LAYER.lora_B.weight   (out, r), of a convolution (out, r, 1, 1)
    base_model.model.WEIGHT                what is trained whole ("modules_to_save")

with LAYER as facebookresearch/DiT or diffusers call it, or for layers that these do not have by
its own name with dots. Rank and alpha stand in adapter_config.json beside it, those of a file alone
in its metadata.

Reference:
    https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_dit.adapt import adapter_names
from keras_dit.networks.base import Network
from keras_dit.weights import files, hub
from keras_dit.weights.files import Stored, folders, some

__all__ = ["Adapter", "Adapters", "class_names", "contents", "is_adapter_file", "read", "write"]

CONFIG, TENSORS = "adapter_config.json", "adapter_model"
NOTE = "lora_adapter_metadata"  # under which diffusers keeps the configuration in a file
NAMES = "class_names"
PREFIX = "base_model.model."
_KEY = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.\w+)?(?:\.weight)?")
_START = re.compile(r"^(base_model\.model\.|transformer\.|module\.)+")
_REFUSED = {  # what adds other things than A B: the settings of peft that say so
    "use_dora": "DoRA",
    "lora_bias": "a bias of the adapters",
    "use_qalora": "QALoRA",
    "layer_replication": "layers that are repeated",
}


class Adapter(NamedTuple):
    """The adapter of a layer: what it adds to the weights is a b alpha / rank.

    Attributes:
        a: numpy (I, r).
        b: numpy (r, O).
        alpha: a number.
    """

    a: np.ndarray
    b: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[1]


class Adapters(NamedTuple):
    """What a file holds.

    Attributes:
        layers: {name of a layer: `Adapter`}.
        whole: {name of a weight: numpy array} of what is trained as it is.
    """

    layers: dict[str, Adapter]
    whole: dict[str, np.ndarray]


def is_adapter_file(path: str | os.PathLike) -> bool:
    """Whether a file, or a folder of peft, is one of adapters."""
    place = pathlib.Path(path)
    if place.is_dir():
        return (place / CONFIG).is_file()
    try:
        return any(_KEY.fullmatch(name) for name in files.read(place))
    except (OSError, ValueError, ImportError):
        return False


def read(path: str | os.PathLike, network: Network) -> Adapters:
    """The adapters of a file, by the names of the network's layers.

    Args:
        path: a file or a folder, of peft or of `write`; or `hf://owner/name`.
        network: that they are for; whether its layers fit is not looked at.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file without adapters, or of a kind that cannot be loaded.
    """
    return adapter_names.ours(contents(path), network)


def contents(path: str | os.PathLike) -> Adapters:
    """The adapters of a file, by the names that it has for layers.

    Args:
        path: as for `read`.
    """
    tensors, config = _open(path)
    layers, whole = _sorted(tensors, path)
    made = {name: _adapter(name, parts, config, path) for name, parts in layers.items()}
    return Adapters(made, whole)


def class_names(path: str | os.PathLike) -> tuple[str, ...] | None:
    """Names of the classes that a file of `write` was trained on, or None.

    Args:
        path: as for `read`.
    """
    note = files.note(_place(path), NAMES)
    return None if note is None else tuple(json.loads(note))


def _place(path):
    """The file of tensors."""
    place = pathlib.Path(hub.local(path, [CONFIG, f"{TENSORS}.*", "*.safetensors"]))
    if place.is_dir():
        found = _in_folder(place)
        if found is None:
            raise FileNotFoundError(f"{path} has no {TENSORS}.safetensors, nor one like it")
        place = found
    if not place.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    return place


def _open(path):
    """{name: `Stored`} and the configuration; {} where there is none."""
    place = _place(path)
    tensors = files.read(place)
    note, beside = files.note(place, NOTE), place.with_name(CONFIG)
    if note is not None:
        config = json.loads(note)
    else:
        config = folders.read_json(beside) if beside.is_file() else {}
    refused = [word for key, word in _REFUSED.items() if config.get(key)]
    if refused or config.get("peft_type", "LORA") != "LORA":
        raise ValueError(
            f"{path} holds adapters of another kind than LoRA, which are not supported: "
            f"{', '.join(refused) or config['peft_type']}"
        )
    return tensors, config


def _in_folder(folder):
    names = (f"{TENSORS}.safetensors", f"{TENSORS}.bin", "lora.safetensors")
    others = sorted(folder.glob("*.safetensors")) if (folder / CONFIG).is_file() else []
    found = [folder / name for name in names if (folder / name).is_file()] + others
    return found[0] if found else None


def _sorted(tensors, path):
    """{layer: {part: `Stored`}} of the adapters, and {weight: array} of the rest."""
    layers: dict[str, dict] = {}
    whole = {}
    for key, stored in tensors.items():
        name = _START.sub("", key)
        match = _KEY.fullmatch(name)
        if match:
            layers.setdefault(match[1], {})[match[2]] = stored
        elif name.endswith(".alpha"):
            layers.setdefault(name.removesuffix(".alpha"), {})["alpha"] = stored
        elif re.search(r"lora_|\.hada_|\.lokr_", name):
            raise ValueError(f"{path} holds adapters of another kind than LoRA: {name}")
        else:
            whole[name] = stored.read()
    if not layers:
        raise ValueError(f"{path} holds no adapters (LoRA), but {some(tensors)}")
    return layers, whole


def _adapter(name, parts, config, path):
    """The `Adapter` of a layer, in our layout."""
    missing = [f"{name}.lora_{part}" for part in "AB" if part not in parts]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}")
    a, b = parts["A"].read(), parts["B"].read()
    if a.ndim == 4:  # of patches: (r, C, p, p) as (p p C, r), and (D, r, 1, 1)
        a, b = a.transpose(2, 3, 1, 0).reshape(-1, len(a)).T, b[:, :, 0, 0]
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
        raise ValueError(f"{path}: the shapes of {name} make no adapter: {a.shape} and {b.shape}")
    rank = len(a)
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = value
    if "alpha" in parts:
        alpha = float(parts["alpha"].read())
    if config.get("use_rslora"):
        alpha = alpha * rank**0.5
    return Adapter(a.T, b.T, float(alpha))


def write(
    adapters: Adapters,
    path: str | os.PathLike,
    network: Network,
    names: str,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write adapters by the names of a network's layers as peft does.

    Args:
        adapters: by the names of the network's layers.
        path: a .safetensors file, or a folder.
        network: that they are of.
        names: "facebook_dit" or "diffusers".
        class_names: names of the classes, in their order.

    Raises:
        ImportError: without the library that it takes.
    """
    place = pathlib.Path(path)
    if place.suffix not in ("", ".safetensors"):
        raise ValueError(f"path must be a .safetensors file, or a folder. Received: {path}")
    layers, whole = adapter_names.theirs(adapters, network, names)
    config = _config(layers, whole)
    tensors: dict[str, np.ndarray] = {}
    for name, adapter in layers.items():
        a, b = adapter.a.T, adapter.b.T
        if name == adapter_names.PATCHES:
            shape = adapter_names.patch_shape(network)
            a = adapter.a.reshape(*shape, -1).transpose(3, 2, 0, 1)
            b = b[:, :, None, None]
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    stored = {PREFIX + name: _stored(array) for name, array in {**tensors, **whole}.items()}
    file = place if place.suffix else place / f"{TENSORS}.safetensors"
    notes = {NOTE: json.dumps(config, sort_keys=True)} if place.suffix else {}
    notes |= {NAMES: json.dumps(list(class_names))} if class_names else {}
    files.write(stored, file, notes)
    if not place.suffix:
        folders.write_json(place / CONFIG, config)


def _stored(array):
    return Stored(array.shape, lambda: array)


def _config(layers: Mapping[str, Adapter], whole: Mapping[str, Any]) -> dict:
    """adapter_config.json: the commonest rank and alpha, and the layers that have others."""
    pairs = [(adapter.rank, adapter.alpha) for adapter in layers.values()]
    rank, alpha = max(pairs, key=pairs.count)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(layers),
        "rank_pattern": {n: x.rank for n, x in layers.items() if x.rank != rank},
        "alpha_pattern": {n: x.alpha for n, x in layers.items() if x.alpha != alpha},
        "modules_to_save": sorted({name.rpartition(".")[0] for name in whole}) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
