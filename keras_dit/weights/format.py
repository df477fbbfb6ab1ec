"""What a format is: how another program stores a network."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from keras_dit.networks import DiTModel
from keras_dit.registry import Registry
from keras_dit.weights import hub
from keras_dit.weights.source import Source


class Format:
    """How another program stores a network. One subclass, one file, one registration.

    Once it is registered (`keras_dit.weights.register`), `from_preset`, `hf://`, `keras-dit
    convert`, its `--help` and the errors know it.

    Attributes:
        title: what a person has in hand, such as "a .pt file of Some/Program".
        suffixes: of what `export` writes, "" for a folder; the first format that was registered
            with a suffix writes it.
        hub_patterns: which files of a repository on the Hugging Face Hub belong to it.
        keeps_facts: whether `export` takes `facts` and `open` gives them back.
        autoencoder: the folder below that of a network in which `open` looks for an autoencoder of
            diffusers; None: it knows none.

    Example:

    ```python
    class Npz(keras_dit.weights.Format):
        title, suffixes = "a .npz file", (".npz",)

        def detect(self, path):
            return path.suffix == ".npz"

        def open(self, path):
            arrays = dict(np.load(path))
            tensors = {k: Stored(v.shape, lambda v=v: v) for k, v in arrays.items()}
            return Source(str(path), config_of(tensors), tensors)

        def export(self, network, path):
            np.savez(path, **{k: v.read() for k, v in layout.save(network).items()})


    keras_dit.weights.register("npz", Npz())
    ```
    """

    title: str
    suffixes: tuple[str, ...] = ()
    hub_patterns: tuple[str, ...] = ()
    keeps_facts: bool = False
    autoencoder: str | None = None

    def detect(self, path: pathlib.Path) -> bool:
        """Whether an existing file or folder looks like this format; `open` says what is wrong."""
        raise NotImplementedError

    def open(self, path: pathlib.Path) -> Source:
        """What it holds, no numbers read yet.

        Raises:
            ValueError: for what is damaged, or of another network.
        """
        raise NotImplementedError

    def check(self, path: str | os.PathLike) -> None:
        """Raise ImportError if `export` to that path would for want of a library."""

    def export(
        self, network: DiTModel, path: str | os.PathLike, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Write a network as that program loads it.

        Args:
            network: a `DiTModel`.
            path: where to; a file or folder that is there is replaced.
            facts: only where `keeps_facts`: what `facts.of` made, for `open` to give back.

        Raises:
            ValueError: for a network that the format cannot hold.
        """
        raise NotImplementedError


class Formats(Registry):
    """Formats by name. The last one registered is the first that is asked about a file."""

    def __init__(self):
        super().__init__("format")

    def register(self, name: str, thing: Format) -> Format:
        """Make a format known.

        Raises:
            ValueError: if it is none, or the name is taken.
        """
        if not isinstance(thing, Format):
            raise ValueError(f"format must be an object of a class of Format. Received: {thing!r}")
        return super().register(name, thing)

    def titles(self) -> str:
        """What can be loaded, in words."""
        return "; ".join(format.title for format in self.values())

    def open(self, path: str | os.PathLike) -> Any:
        """What the format of a file, a folder or `hf://owner/name` makes of it.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is of no known format.
        """
        patterns = [pattern for format in self.values() for pattern in format.hub_patterns]
        path = pathlib.Path(hub.local(path, patterns))
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        for format in reversed(self.values()):
            if format.detect(path):
                return format.open(path)
        raise ValueError(f"{path} is none of these: {self.titles()}")
