"""A trained network for other data: other classes, images, patches, channels or conditions.

A new network is built, and each weight of the old one goes to the place of its name: as it is, or
by `maps` where it belongs to patches or places, by `classes` where it belongs to labels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_dit.conditions import Label, Text
from keras_dit.layers import BottleneckPatchEmbedding, sincos_positions
from keras_dit.networks.dit import DiTModel
from keras_dit.networks.naming import has_adapters, of_weights
from keras_dit.networks.resizing import maps
from keras_dit.networks.resizing.classes import kept_classes, rows
from keras_dit.networks.resizing.configuring import changed, grid

__all__ = ["resize"]


def resize(
    network: DiTModel,
    *,
    class_names: tuple[Sequence[str] | None, Sequence[str] | None] | None = None,
    keep: Mapping[Any, Any] | None = None,
    say: Callable[[str], Any] | None = print,
    spread: bool = True,
    **changes: Any,
) -> DiTModel:
    """A new network for other data, with as much of a trained one as fits.

    - Classes: those of the same name go on from their own row, without names those of the same
      number. A new one starts from a row that is drawn as the old ones lie.
    - Images of another size: sine and cosine positions are computed for the new grid, positions of
      another kind interpolated; rotary ones follow the grid by themselves. With `spread=False` all
      of them lie between those of before, as the pixels of an image made larger do.
    - Patches of another size: the maps of input and output are resized so that an image that is
      made larger with its patches gives the same tokens, and the output is made larger too.
    - Channels: grey to colour and back likewise; for others both maps start anew.
    - A learned variance is taken off, or joins at zero. What there is to be told beside the image
      is dropped, or joins so that nothing changes at first.

    Args:
        network: a `DiTModel` of any parts. It stays as it is; adapters (LoRA) are merged.
        class_names: names of the classes, (before, after), None for those not known.
        keep: {new class: old class}, numbers or names, instead of names and numbers; all others
            are new.
        say: called with a sentence for whatever is not as it was; None: nobody is.
        spread: whether neighbouring tokens are as far apart as before, as is best for training
            further. False: all tokens of another grid lie where those of before did, so that a
            network which is not trained further is told no position that it does not know.
        **changes: of the arguments of `DiTModel` those that are to be others: num_classes,
            input_shape, image_sizes, patch_size, learned_variance, output_channels, conditions (all
            beside the classes), time, condition_dropout, remat, dtype, name.

    Returns:
        A network of the class of the old one, all of it trainable.

    Raises:
        ValueError: for a network that is no `DiTModel` or is quantized, changes that make no
            network, or classes that are not there.

    Example:

    >>> network = keras_dit.DiTModel(
    ...     (8, 8, 1), patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    >>> names = ["cat", "dog", "owl"], ["owl", "pig"]
    >>> new = resize(network, num_classes=2, class_names=names, input_shape=(16, 16, 1))
    classes: 1 of 2 kept, by name: owl; new: pig
    positions: computed for a grid of 8 x 8 patches, was 4 x 4
    >>> new.image_shape
    (16, 16, 1)

    Reference:
        Beyer et al.: FlexiViT: One Model for All Patch Sizes (2023), for patches. Chen et al.:
        Extending Context Window of Large Language Models via Positional Interpolation (2023), for
        `spread=False`.
    """
    config = changed(network, changes, spread)
    old = network.copied() if has_adapters(network) else network
    transfer = _Transfer(old, type(network).from_config(config))
    transfer.classes(class_names, keep)
    transfer.conditions()
    transfer.time()
    transfer.positions(spread)
    transfer.ends()
    transfer.rest()
    if say is not None:
        for sentence in transfer.notes:
            say(sentence)
    return transfer.new


class _Transfer:
    """The weights of a network on their way to another, and what there is to say of them."""

    def __init__(self, old, new):
        self.old, self.new = old, new
        self.theirs, self.ours = of_weights(old), of_weights(new)
        self.done: set[str] = set()
        self.notes: list[str] = []

    def _move(self, name, function=lambda values: values):
        """Assign what a function makes of the numbers of the old weight of that name."""
        values = np.array(ops.convert_to_numpy(ops.cast(self.theirs[name], "float32")))
        self.ours[name].assign(np.asarray(function(values), "float32"))
        self.done.add(name)

    def _leave(self, room, note):
        """Leave the weights of a room as they were built, and say so."""
        self.done |= {name for name in self.ours if name.startswith(f"{room}/")}
        self.notes.append(note)

    def classes(self, class_names, keep):
        label, other = self.old.label, self.new.label
        if not (isinstance(label, Label) and isinstance(other, Label)):
            return
        kept = kept_classes(label.num_classes, other.num_classes, class_names, keep)
        self._move("label/table", lambda table: rows(table, kept))
        if kept != list(range(label.num_classes)):
            known = class_names and None not in class_names
            by = "choice" if keep is not None else "name" if known else "number"
            names = (class_names or (None, None))[1] or [f"{n}" for n in range(len(kept))]
            self.notes.append(_classes_note(kept, names, by))

    def conditions(self):
        for name, condition in self.new.conditions.items():
            before = self.old.conditions.get(name)
            if _goes_on(before, condition):
                continue
            silent = condition.silence()
            if condition.gives_tokens:
                self._leave(name, f"{name}: new; {self._heard()}")
            else:
                effect = "without effect at first" if silent else "with weights as they are built"
                self._leave(name, f"{name}: new, {effect}")
        gone = [name for name in self.old.conditions if name not in self.new.conditions]
        self.notes += [f"{name}: dropped" for name in gone]

    def time(self):
        if _facts(self.old.time) != _facts(self.new.time):
            self._leave("time", "time: another embedding, which starts anew")

    def _heard(self):
        """What the tokens of a new condition do to the network at first."""
        heard = any("/cross_attention/" in name for name in self.ours)
        before = any("/cross_attention/" in name for name in self.theirs)
        if heard and not before:
            return "the blocks attend to it by a cross-attention that starts at zero"
        return "the blocks attend to it at once, before it has been learned"

    def positions(self, spread):
        before, after = grid(self.old.config), grid(self.new.config)
        width = self.old.config["hidden_size"]
        values = np.array(ops.convert_to_numpy(ops.cast(self.old.positions, "float32")))[0]
        computed = np.allclose(values, sincos_positions(*before, width), rtol=0, atol=4e-3)
        if before == after:
            return
        if not computed:
            self._move("positions", lambda table: maps.table(table[0], before, after)[None])
        elif not spread:
            scale = [old / new for old, new in zip(before, after)]
            self.new.positions.assign(sincos_positions(*after, width, scale)[None])
        self.done.add("positions")
        how = "computed" if computed else "interpolated"
        sides = " x ".join(map(str, after)), " x ".join(map(str, before))
        self.notes.append(f"positions: {how} for a grid of {sides[0]} patches, was {sides[1]}")

    def ends(self):
        """The maps of input and output."""
        before, after = _End(self.old), _End(self.new)
        if before == after:
            return
        colour = maps.colours(before.channels, after.channels)
        if colour is None:
            self._leave_ends(before, after)
            return
        patches = before.patch, after.patch
        if patches[0] != patches[1] or before.channels != after.channels:
            self._move(f"{self._input()}/kernel", lambda w: maps.input_map(w, *patches, colour))
            self.notes.append(
                f"maps of input and output: resized from {before.words} to {after.words}"
            )
        if None in (before.groups, after.groups):  # channels that are no parts of an image's
            colour = np.eye(before.outputs)
            if before.outputs != after.outputs:
                self._leave("final/projection", "output: its map starts anew")
                return
        for name in ("final/projection/kernel", "final/projection/bias"):
            self._move(
                name,
                lambda u: maps.output_map(_with_outputs(u, before, after), *patches, colour),
            )
        if before.groups != after.groups:
            joined = (after.groups or 0) > (before.groups or 0)
            how = "join, at zero" if joined else "are taken off"
            self.notes.append(f"output: channels beside the {after.channels} of an image {how}")

    def _input(self):
        """The linear map that sees the numbers of a patch: the first."""
        bottleneck = isinstance(self.new.patches, BottleneckPatchEmbedding)
        return "patches/inner" if bottleneck else "patches/projection"

    def _leave_ends(self, before, after):
        words = f"{before.channels} channels do not become {after.channels}"
        self._leave(self._input(), f"maps of input and output: start anew, as {words}")
        self.done |= {name for name in self.ours if name.startswith("final/projection/")}

    def rest(self):
        """Everything else, as it is where it has the same shape."""
        anew = []
        for name, weight in self.ours.items():
            if name in self.done:
                continue
            other = self.theirs.get(name)
            if other is not None and tuple(other.shape) == tuple(weight.shape):
                weight.assign(np.array(ops.convert_to_numpy(other)))
            elif other is not None and self._is_longer(name, weight, other):
                self._move(name, lambda rows, new=weight: _after(rows, new))
                self.notes.append(f"{name}: {other.shape[0]} of {weight.shape[0]} rows are kept")
            elif "/cross_attention/" not in name or other is not None:
                anew.append(name)
        if anew:
            more = f" and {len(anew) - 3} more" if len(anew) > 3 else ""
            self.notes.append(f"started anew: {', '.join(anew[:3])}{more}")

    def _is_longer(self, name, weight, other):
        """Whether it is the table of a condition with more rows, such as more words."""
        if name.partition("/")[0] not in self.new.conditions:
            return False
        return weight.shape[1:] == other.shape[1:] and weight.shape[0] > other.shape[0]


def _goes_on(before, condition):
    """Whether a condition is one of before: the same, or another table of classes or words."""
    if type(before) is not type(condition):
        return False
    return isinstance(condition, (Label, Text)) or _facts(before) == _facts(condition)


def _facts(layer):
    """The configuration of a part, as far as its numbers depend on it."""
    config = {"of": type(layer), **layer.get_config()}
    others = ("name", "dtype", "trainable", "hidden_size", "dropout")
    return {name: value for name, value in config.items() if name not in others}


def _after(rows, weight):
    """The old rows of a table, and after them those that its new variable has."""
    new = ops.convert_to_numpy(ops.cast(weight, "float32"))
    return np.concatenate([rows, new[len(rows) :]])


class _End:
    """What the maps at the ends of a network are for."""

    def __init__(self, network):
        self.patch = network.config["patch_size"]
        self.channels, self.outputs = network.image_shape[-1], network.output_channels
        whole = self.outputs % self.channels == 0
        self.groups = self.outputs // self.channels if whole else None
        self.words = f"patches of {self.patch} x {self.patch} x {self.channels}"

    def __eq__(self, other):
        return vars(self) == vars(other)


def _with_outputs(values, before, after):
    """A map of the output, (..., p p k C), with other groups: cut, or filled up with zeros."""
    if None in (before.groups, after.groups):
        return values
    lead = values.shape[:-1]
    parts = values.reshape(*lead, before.patch**2, before.groups, before.channels)
    parts = parts[..., : after.groups, :]
    missing = after.groups - parts.shape[-2]
    padding = [(0, 0)] * (parts.ndim - 2) + [(0, missing), (0, 0)]
    return np.pad(parts, padding).reshape(*lead, -1)


def _classes_note(kept, names, by):
    old = [name for name, number in zip(names, kept) if number is not None]
    new = [name for name, number in zip(names, kept) if number is None]
    note = f"classes: {len(old)} of {len(kept)} kept, by {by}: {_listed(old)}"
    if not old:
        note = f"classes: none of {len(kept)} kept"
    return f"{note}; new: {_listed(new)}" if new else note


def _listed(names):
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
