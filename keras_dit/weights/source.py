"""What every format gives: the tensors of a file and what it says of itself."""

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from keras_dit import codecs, processes
from keras_dit.networks import DiTModel
from keras_dit.networks.resizing import DATA, resize
from keras_dit.weights import layout
from keras_dit.weights.files import Stored

# What a tensor's numbers do not depend on may be chosen freely, what else a file does not say too.
_FREE = {
    "dtype",
    "name",
    "remat",
    "label_dropout",
    "condition_dropout",
    "num_heads",
    "in_context_start",
    "frequency_shift",
    "mlp_epsilon",
    "trainable",
}
_ASKED = {  # arguments that a file may leave open: None
    "num_heads": "how many heads its attention has",
    "in_context_start": "from which block on its in-context tokens go through the blocks",
}
_LABELS = "y_embedder.embedding_table.weight"


def dit(network: DiTModel) -> dict[str, Any]:
    """How DiT was trained."""
    return _named("ddpm", network)


def sit(network: DiTModel) -> dict[str, Any]:
    """How SiT was trained."""
    return _named("sit", network)


def lightning(network: DiTModel) -> dict[str, Any]:
    """How LightningDiT was trained: on latents that are normalised by their own statistics."""
    return {**_named("lightningdit", network), "codec": codecs.Latents(1.0)}


def _named(name, network):
    process = processes.fitted(processes.named(name), network)
    return {"process": process, "codec": codec(network)}


def channels(count: int, image_channels: int, meant: bool) -> dict[str, Any]:
    """The arguments of `DiTModel` for so many output channels.

    Args:
        count: of the output.
        image_channels: of the images.
        meant: whether as many again as those of the images say where the variance lies.
    """
    doubled = count == 2 * image_channels
    return {
        "learned_variance": doubled and meant,
        "output_channels": count if doubled and not meant else None,
    }


def imagenet() -> list[str]:
    """The names of ImageNet's 1000 classes, in the order of their folders."""
    file = importlib.resources.files("keras_dit") / "data" / "imagenet.txt"
    return file.read_text(encoding="utf-8").splitlines()


def codec(network: DiTModel) -> codecs.Codec:
    """Four channels are the latents of Stable Diffusion's autoencoder, others are pixels."""
    return codecs.Latents() if network.image_shape[-1] == 4 else codecs.Pixels()


class Source(NamedTuple):
    """An opened file or folder.

    Attributes:
        path: as it was given.
        config: arguments of `DiTModel` that follow from it, as a dict.
        tensors: {name: `Stored`} under the names of facebookresearch/DiT.
        process: network -> arguments of `Diffusion` that belong to it, as a dict.
        class_names: names of the classes, or None.
        notes: what a person should know of it, a sentence each.
        codec: -> {"codec": ...} where the file says it, however the network was trained.
    """

    path: str
    config: dict[str, Any]
    tensors: dict[str, Stored]
    process: Callable[[DiTModel], dict[str, Any]] = dit
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    codec: Callable[[], dict[str, Any]] = dict

    def network(
        self,
        *,
        class_names: Sequence[str] | None = None,
        keep: Mapping[Any, Any] | None = None,
        say: Callable[[str], Any] | None = print,
        **overrides: Any,
    ) -> DiTModel:
        """A `DiTModel` with these weights, by `adapt.resize` for other data where it is asked for.

        Args:
            class_names: names of the classes it is for, by which they are found in the file's.
            keep, say: as for `adapt.resize`.
            **overrides: arguments of `DiTModel`.

        Raises:
            ValueError: for arguments that make another network than the file's, or if it needs
                some that it does not say, or does not hold a DiT.
        """
        changes = {k: v for k, v in overrides.items() if k in DATA and v != self._says(k, v)}
        network = self._network({k: v for k, v in overrides.items() if k not in changes})
        others = class_names and self.class_names and tuple(class_names) != self.class_names
        if not (changes or others or keep is not None):
            return network
        names = self.class_names, class_names
        return resize(network, class_names=names, keep=keep, say=say, **changes)

    def _network(self, overrides):
        """The network of the file."""
        self._check(overrides)
        config, tensors = {"num_heads": None, **self.config, **overrides}, self.tensors
        if config["num_classes"] == tensors[_LABELS].shape[0]:  # no row for "no class"
            if config.get("label_dropout") is None:
                config.setdefault("condition_dropout", 0.0)
            tensors = {**tensors, _LABELS: _with_null_row(tensors[_LABELS])}
        for name, what in _ASKED.items():
            if name in config and config[name] is None:
                raise ValueError(f"{self.path} does not say {what}: give {name}=")
        return layout.load(tensors, config, self.path)

    def parts(self, network: DiTModel, given: Mapping[str, Any] = MappingProxyType({})) -> dict:
        """The arguments of `Diffusion` that belong to the weights and are not given.

        Raises:
            ValueError: where they are not known here, and not given.
        """
        if "process" in given or {"schedule", "prediction"} <= given.keys():
            return {} if "codec" in given else {"codec": codec(network), **self.codec()}
        return {name: part for name, part in self.process(network).items() if name not in given}

    def remarks(self) -> list[str]:
        """What a person should know of it, a sentence each, its positions looked at."""
        own = layout.own_positions(self.tensors, self.config)
        return [*self.notes, *([layout.OWN_POSITIONS] if own else [])]

    def _check(self, overrides):
        """Raise ValueError for what would not be the network of the file."""
        unlike = {k: v for k, v in overrides.items() if k not in _FREE and v != self._says(k, v)}
        if unlike:
            says = ", ".join(f"{name}={self.config.get(name)}" for name in unlike)
            given = ", ".join(f"{name}={value}" for name, value in unlike.items())
            raise ValueError(
                f"{self.path} holds a network with {says}. Others may be {', '.join(DATA)}, which "
                f"adapts it. Received: {given}"
            )

    def _says(self, name, value):
        """What the file says of an argument, or the value where it leaves it open."""
        if name == "num_classes" and value == self.tensors[_LABELS].shape[0]:
            return value  # trained without label dropout: every row is a class
        if name == "conditions" and not value:
            return value
        if name == "input_shape" and len(value) == 3:
            height, columns, channels = value
            patch, tokens = self.config["patch_size"], self.tensors["pos_embed"].shape[1]
            fits = height * columns == tokens * patch**2 and channels == self.config[name][2]
            return value if fits or tuple(value) == self.config[name] else self.config[name]
        return self.config.get(name)


def _with_null_row(table):
    rows, width = table.shape
    return Stored(
        (rows + 1, width),
        lambda: np.concatenate([table.read(), np.zeros((1, width), "float32")]),
    )
