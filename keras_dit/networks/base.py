"""What the rest of the library asks of a network."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dit import backend
from keras_dit.conditions import Condition
from keras_dit.networks.exporting import Exportable, condition_signature

QUANTIZATIONS = ("int8", "int4")


class Network(Exportable):
    """A network for `Diffusion`: (x, t, y) -> output, and what it can be told beside the image.

    Subclasses give `call(x, t, y=None, training=None, dropped=None)`: in training they drop what
    `draw_dropped` draws, or, where `dropped` is not None, what that says.

    Attributes:
        image_shape: (H, W, C) of x.
        output_channels: of the output, (B, H, W, output_channels).
        learned_variance: whether the second half of them says where the variance lies.
        conditions: dict of `conditions.Condition` by name; without any, y is None.
        condition_dropout: probability that all conditions of a sample are dropped in training.
    """

    image_shape: tuple = ()
    output_channels: int | None = None
    learned_variance = False
    conditions: dict[str, Condition] = {}  # noqa: RUF012
    condition_dropout = 0.0

    @property
    def told(self) -> dict[str, Condition]:
        """The conditions whose values users give; those of the others the process sets."""
        return {n: c for n, c in self.conditions.items() if not c.of_process}

    @property
    def sizes(self) -> tuple:
        """(H, W) of all images that it takes, that of `image_shape` first."""
        return (tuple(self.image_shape[:2]),)

    @property
    def output_shape(self):
        """Of the output, for `summary`."""
        return (None, *self.image_shape[:2], self.output_channels)

    @property
    def label(self) -> Any:
        """The condition of that name, or None. (Files of 0.1.0 have its weights here.)"""
        return self.conditions.get("label")

    @property
    def num_classes(self) -> int | None:
        """The number of classes, or None for a network that knows none."""
        return getattr(self.label, "num_classes", None)

    def named(self, y: Any) -> dict:
        """The values of the conditions by name, as far as they are given.

        Raises:
            ValueError: if y is not the value of the one condition, nor a dict of known names.
        """
        if y is None:
            return {}
        if isinstance(y, dict) and set(y) <= set(self.conditions):
            return {name: value for name, value in y.items() if value is not None}
        names = list(self.told)
        if len(names) == 1 and not isinstance(y, dict):
            return {names[0]: y}
        if not names:
            raise ValueError("the network has no classes (num_classes=None): give no labels")
        given = list(y) if isinstance(y, dict) else f"a {type(y).__name__}"
        raise ValueError(
            f"conditions must be a dict of values for {', '.join(names)}. Received: {given}"
        )

    def input_signature(self) -> list:
        """Shapes and dtypes of x, t and y in a call, the batch left open."""
        return [
            keras.InputSpec(shape=(None, *self.image_shape), dtype="float32", name="x"),
            keras.InputSpec(shape=(None,), dtype="float32", name="t"),
            *condition_signature(self._form({n: c.null(1) for n, c in self.conditions.items()})),
        ]

    @property
    def quantized(self) -> tuple[str, ...]:
        """How matrices are held as integers, names of `QUANTIZATIONS`; empty where none are."""
        modes = (getattr(layer, "quantization_mode", None) for layer in backend.layers_of(self))
        return tuple(sorted({mode for mode in modes if mode}))

    def copied(self, values: Any = None, dtype: Any = None) -> "Network":
        """A new network of this configuration, with adapters (LoRA) merged into its weights.

        Args:
            values: what the weights are to be, one for each of `weights`; None: what they are.
            dtype: a Keras dtype policy for the copy, such as "bfloat16", or the mode in which it
                is quantized, such as "int8"; None: as this one.

        Raises:
            ValueError: for another dtype than None where matrices are integers already.
        """
        if dtype is not None and self.quantized:
            raise ValueError(
                f"the matrices of the network are {', '.join(self.quantized)} and stay so. "
                f"Received: dtype={dtype!r}"
            )
        config = self.get_config()
        if dtype is not None and dtype not in QUANTIZATIONS:
            config["dtype"] = dtype
        copy = type(self).from_config(config)
        values = self.weights if values is None else values
        stores: list[dict] = []
        # By way of numpy: what is held must be no variable.
        held = [ops.convert_to_tensor(ops.convert_to_numpy(value)) for value in values]
        with backend.holding(self, held):
            for layer in backend.layers_of(self):
                stores.append({})
                layer.save_own_variables(stores[-1])
                for name, value in stores[-1].items():
                    stores[-1][name] = np.array(ops.convert_to_numpy(value))
        for layer, store in zip(backend.layers_of(copy), stores, strict=True):
            layer.load_own_variables(store)
        if dtype in QUANTIZATIONS:
            copy.quantize(dtype)
        return copy

    def quantize(self, mode: str | None = None, config: Any = None, **kwargs: Any) -> None:
        """Hold the matrices of linear maps as integers, in place, as `keras.Model.quantize` does.

        Biases, tables and norms stay as they are. A `Diffusion` with an average is asked for its
        `sampling_network()` first, whose weights are the average.

        Args:
            mode: "int8": whole numbers of -127 to 127 with a scale for each output, and at each
                call the same of the tokens; "int4": of -8 to 7 with a scale and an offset for each
                output and 128 inputs, the tokens as they are.
            config: one of `keras.quantizers` instead, such as
                `Int4QuantizationConfig(block_size=-1)`.
            **kwargs: as Keras has them, such as `filters`, a regular expression for the names of
                the layers to quantize.

        Raises:
            ValueError: for a mode that Keras has not, or that takes data (GPTQ, AWQ) or training
                (float8).

        Example:

        >>> network = keras_dit.DiTModel((8, 8, 1), 4, hidden_size=16, depth=1, num_heads=2)
        >>> network.quantize("int8")
        >>> network.blocks[0].mlp.mlp_in.kernel.dtype
        'int8'
        """
        chosen = mode or getattr(config, "mode", None)
        if chosen not in QUANTIZATIONS:
            allowed = " or ".join(QUANTIZATIONS)
            raise ValueError(f"mode must be {allowed}. Received: mode={chosen!r}")
        with warnings.catch_warnings(), backend.dropping_weights():
            # Of each layer that has nothing to quantize.
            warnings.filterwarnings("ignore", ".* does not have a `quantize` method")
            super().quantize(mode, config=config, **kwargs)

    def check(self, y: Any, count: int | None = None) -> Any:
        """Values of the conditions on the host, in the form of y; what is not said becomes null.

        Args:
            y: as for a call, but in anything that the conditions can read, such as lists.
            count: how many samples there are; None: as many as the values say.

        Returns:
            A nest of numpy arrays; None for a network without conditions.

        Raises:
            ValueError: by the first condition that refuses its value.
        """
        checked = {k: self.conditions[k].check(v, count) for k, v in self.named(y).items()}
        if count is None:
            counts = [len(tree.flatten(value)[0]) for value in checked.values()]
            if not counts:
                raise ValueError("give a value for each sample. Received: none")
            count = counts[0]
        assert count is not None
        return self._form({k: checked.get(k, c.null(count)) for k, c in self.told.items()})

    def null(self, count: int) -> Any:
        """The value "nothing said" for so many samples, numpy arrays in the form of y."""
        return self._form({name: c.null(count) for name, c in self.told.items()})

    def admit(self, y: Any) -> Any:
        """The values of a training batch, tensors, in the form of y (`Condition.admit`)."""
        return self._form({k: self.conditions[k].admit(v) for k, v in self.named(y).items()})

    def draw_dropped(self, count: int | None) -> dict:
        """Which of so many samples are told nothing in a training step: masks bool (count,).

        Returns:
            dict by the names of conditions. Those without a dropout of their own share one mask.
        """
        shared, masks = None, {}
        for name, condition in self.told.items():
            rate = self.condition_dropout if condition.dropout is None else condition.dropout
            if not rate:
                continue
            if condition.dropout is not None:
                masks[name] = condition.draw(count, rate)
                continue
            shared = condition.draw(count, rate) if shared is None else shared
            masks[name] = shared
        return masks

    def drop(self, y: Any, masks: dict) -> Any:
        """The values of y, null where the masks of `draw_dropped` say so."""
        given = self.named(y)
        return self._form(
            {
                name: self.conditions[name].drop(value, masks[name]) if name in masks else value
                for name, value in given.items()
            }
        )

    def _form(self, values):
        if len(self.told) == 1 and set(values) == set(self.told):
            return next(iter(values.values()))
        return values or None
