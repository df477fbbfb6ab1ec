"""The moving average of a network's weights.

    a ← a + r_n (w − a) at update n = 0, 1, …

with a rate r_n that `training.profiles` knows: it starts as a copy of the weights and lengthens
with the run. There may be several averages with rates of their own.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend, notices
from keras_dit.networks.naming import has_adapters
from keras_dit.training import profiles
from keras_dit.training.checkpoints import names

__all__ = ["WeightAverage"]


class WeightAverage(keras.layers.Layer):
    """Keeps the average of a network's floating weights, in float32 whatever their dtype.

    Keras's own average (`use_ema`) overwrites the weights at the end of `fit`, and under bfloat16
    it never moves. This one leaves them alone and is saved beside them.

    It follows each weight by its path: a weight that was added to the network since (an adapter, a
    new head) joins as a copy. Where adapters (LoRA) train, it follows these, and what stays below
    them only if it had begun to. Where somebody else than training has changed weights
    (`set_weights`, `load_weights`, a merged adapter), the average starts anew as a copy of them,
    with a warning.

    Args:
        decay: in [0, 1); or a `profiles.Power`, of which each width is an average of its own and
            the last one the one that is meant where nothing else is said.
        network: the layer whose weights are averaged. It is not tracked.

    Raises:
        ValueError: if the decay is out of its range.

    Example:

    ```python
    average = WeightAverage(0.999, network)
    average.update()  # after each step
    ```
    """

    def __init__(self, decay: Any, network: keras.Layer, **kwargs):
        super().__init__(autocast=False, trainable=False, **kwargs)
        self.decay = decay
        self.profiles = profiles.of(decay)
        # In a namespace, where Keras does not look: it is saved with whom it belongs to.
        self._of = types.SimpleNamespace(network=network)
        self.updates = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="updates"
        )
        self._names: list[str] = []
        # In that order; of each weight one for each profile.
        self._averages: list[keras.Variable] = []
        object.__setattr__(self, "_weights", [])  # in that order too; the network's, not tracked
        # The number of updates and the weights' fingerprints at that time.
        self._seen: tuple[int, dict] = 0, {}
        self._copied: dict | None = None  # those of the weights that it last became a copy of
        self.built = True
        self.settle()

    @property
    def begun(self) -> bool:
        """Whether it has been updated; not inside a compiled function."""
        return int(ops.convert_to_numpy(self.updates)) > 0

    @property
    def values(self) -> list:
        """For each of `network.weights` its average; of one that is not floating the weight."""
        return self._values(self.profiles[-1])

    def _values(self, profile):
        averages = {id(w): a for w, a in zip(self._weights, self._of_profile(profile), strict=True)}
        return [averages.get(id(weight), weight) for weight in self._of.network.weights]

    def by_name(self, profile: Any = None) -> dict:
        """The averages, variables, by the names of their weights in files.

        Args:
            profile: of `profiles`; None: the last one.
        """
        return dict(zip(self._names, self._of_profile(profile or self.profiles[-1]), strict=True))

    @property
    def by_prefix(self) -> dict:
        """Each profile by what stands in files before the names of its averages, "" the last's."""
        *others, last = self.profiles
        return {**{f"{profile.std:g}:": profile for profile in others}, "": last}

    def _of_profile(self, profile):
        return self._averages[self.profiles.index(profile) :: len(self.profiles)]

    def update(self, where: Any = None) -> None:
        """Move towards the weights; inside a training step.

        Args:
            where: a bool scalar tensor: whether to; None: it moves.
        """
        n = ops.cast(self.updates, "float32")
        moved = 1 if where is None else ops.cast(where, "int32")
        for place, profile in enumerate(self.profiles):
            averages = self._averages[place :: len(self.profiles)]
            rate = profile.rate(n)
            if where is not None:
                rate = rate * ops.cast(where, "float32")
            backend.move_averages(averages, self._weights, rate)
        self.updates.assign(self.updates + moved)

    # What others do to the weights; on the host, not inside a compiled function

    def settle(self) -> None:
        """Follow what others have done to the network since the last step or `trust`.

        Before the first update it is a copy of the weights, whatever they are.
        """
        weights = self._followed()
        begun, replaced = self.begun, self._match(weights)
        updates, marks = self._seen
        now = dict(zip(weights, backend.fingerprints(list(weights.values())), strict=True))
        changed = replaced or any(now.get(name, mark) != mark for name, mark in marks.items())
        if begun and changed and updates == int(ops.convert_to_numpy(self.updates)):
            notices.warn(
                "the network's weights were changed outside of training: their average starts "
                "anew as a copy of them"
            )
            begun = False
        if not begun and (replaced or now != self._copied):
            self.restart()
            self._copied = now
        self._seen = int(ops.convert_to_numpy(self.updates)), now

    def restart(self) -> None:
        """Make the average a copy of the weights, as before the first update."""
        self.updates.assign(0)
        for profile in self.profiles:
            for average, weight in zip(self._of_profile(profile), self._weights, strict=True):
                average.assign(_copy(weight))

    def trust(self) -> None:
        """Take the weights as they are for those that belong to the average."""
        weights = self._followed()
        self._match(weights)
        now = dict(zip(weights, backend.fingerprints(list(weights.values())), strict=True))
        self._seen = int(ops.convert_to_numpy(self.updates)), now

    @contextlib.contextmanager
    def following(self, settled: bool = True) -> Iterator[None]:
        """While this lasts the weights are changed by training, and belong to the average.

        Args:
            settled: whether to `settle` first, which within another training would be wrong.
        """
        if settled:
            self.settle()
        try:
            yield
        except BaseException:
            # What went wrong is what counts: on JAX the weights may be in the step's hands still.
            with contextlib.suppress(Exception):
                self.trust()
            raise
        self.trust()

    def _followed(self):
        network = self._of.network
        kept = set(names.below_adapters(network)) - set(self._names if self.begun else ())
        weights = _floating(names.of_weights(network))
        return {name: weight for name, weight in weights.items() if name not in kept}

    def _match(self, weights):
        """Drop the averages of weights that are gone, add those of new ones: whether any went."""
        gone = [name for name in self._names if name not in weights]
        each = len(self.profiles)
        for place in reversed(range(len(self._names))):
            name, average = self._names[place], self._averages[place * each]
            if name in gone or tuple(average.shape) != tuple(weights[name].shape):
                self._names.pop(place)
                for _ in range(each):
                    self._averages.pop(place * each)
        for name, weight in weights.items():
            if name not in self._names:
                self._names.append(name)
                for prefix in self.by_prefix:
                    self._averages.append(self._variable(prefix, name, weight))
        self._weights[:] = [weights[name] for name in self._names]
        return bool(gone)

    def _variable(self, prefix, name, weight):
        """A float32 copy of a weight whose path ends as the weight's does, for a `LayoutMap`."""
        *scopes, last = name.split("/")
        with contextlib.ExitStack() as stack:
            for scope in (self.name + prefix.replace(".", "_").replace(":", ""), *scopes):
                stack.enter_context(keras.name_scope(scope))
            return keras.Variable(_copy(weight), dtype="float32", trainable=False, name=last)

    # Files

    def save_own_variables(self, store: Any) -> None:
        self.settle()
        weights = self._followed()
        averages = {prefix: self.by_name(one) for prefix, one in self.by_prefix.items()}
        network = self._of.network
        if has_adapters(network):
            # A file has no adapters: Keras merges them into the weights that it saves.
            weights = _floating(names.of_weights(network.copied()))
            for prefix, profile in self.by_prefix.items():
                copy = network.copied(self._values(profile))
                averages[prefix] = _floating(names.of_weights(copy))
        store["updates"] = ops.convert_to_numpy(self.updates)
        store["fingerprints"] = np.array(backend.fingerprints(list(weights.values())), "uint32")
        for prefix, own in averages.items():
            for name in weights:
                store[prefix + _key(name)] = ops.convert_to_numpy(own[name])

    def load_own_variables(self, store: Any) -> None:
        arrays = {key: np.array(store[key]) for key in store.keys()}  # noqa: SIM118, an h5 store
        if "updates" not in arrays:  # by position, as 0.1.0 wrote it
            order = ["updates", *map(_key, names.order_of_0_1_0(self._names))]
            arrays = {key: arrays[str(i)] for i, key in enumerate(order) if str(i) in arrays}
        own = {
            prefix + _key(name): average
            for prefix, profile in self.by_prefix.items()
            for name, average in self.by_name(profile).items()
        }
        wrong = [key for key, average in own.items() if not _fits(average, arrays.get(key))]
        if wrong:
            raise ValueError(f"the file has no average of {', '.join(wrong[:3])}")
        self._copied = None
        self.updates.assign(arrays["updates"])
        for key, average in own.items():
            average.assign(arrays[key])
        marks = arrays.get("fingerprints", np.zeros(0)).tolist()
        self._seen = int(arrays["updates"]), dict(zip(self._followed(), marks))


def _floating(weights):
    return {name: w for name, w in weights.items() if keras.backend.is_float_dtype(w.dtype)}


def _copy(weight):
    # Through numpy: on JAX two variables that share a buffer cannot be donated.
    return np.array(ops.convert_to_numpy(ops.cast(weight, "float32")))


def _key(name):
    return name.replace("/", ".")  # a slash would make groups of an h5 file


def _fits(variable, array):
    return array is not None and tuple(variable.shape) == tuple(array.shape)
