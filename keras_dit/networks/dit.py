"""The Diffusion Transformer.

Reference:
    Peebles, Xie: Scalable Diffusion Models with Transformers (2023).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend, legacy
from keras_dit.conditions import Context, Label, TimestepEmbedding
from keras_dit.layers import AdaLNBlock, FinalLayer, PatchEmbedding, sincos_positions
from keras_dit.layers.parts import copy_part, load_parts, save_part
from keras_dit.layers.positions import grid_positions
from keras_dit.networks import checks
from keras_dit.networks.base import Network
from keras_dit.networks.naming import has_adapters, of_weights
from keras_dit.networks.presets import OPENERS, PRESETS, preset_config
from keras_dit.serialization import register

PARTS = ("block", "time", "conditions", "final_norm", "patches", "in_context")


@register
class DiTModel(Network):
    """A Diffusion Transformer with adaLN-Zero: noisy image, time and conditions -> prediction.

    A new network gives exactly 0. It is built at construction: its weights exist at once.

    Args:
        input_shape: (H, W, C) of the images, channels last, H and W multiples of patch_size.
        patch_size: side of a patch in pixels.
        hidden_size: width of a token; a multiple of num_heads and of 4.
        depth: number of blocks.
        num_heads: heads of each block's attention; not needed where `block` is given.
        num_classes: number of classes, short for conditions={"label": Label(num_classes)}; None:
            the network is told nothing, or what `conditions` say.
        conditions: what the network is told beside the image, a dict of `conditions.Condition` by
            name. They are copied, with the width of this network.
        mlp_ratio: width of each block's MLP over hidden_size.
        learned_variance: whether the output has C more channels, which say where the variance
            lies (`predictions.LearnedVariance`).
        output_channels: of the output; None: C, or 2 C with a learned variance. What the channels
            mean is up to the prediction, such as `predictions.HalfUnused`.
        condition_dropout: probability that all conditions of a sample are dropped in training,
            for guidance; those with a dropout of their own are dropped by themselves.
        remat: whether training keeps each block's input only and computes the rest again in
            the backward pass: less memory, about a third more arithmetic, the same gradients.
        block: what `depth` copies are made of, an unbuilt layer that is called with tokens, a
            `Context` and positions; None: `AdaLNBlock(num_heads, mlp_ratio)`.
        time: the embedding of the time, an unbuilt layer; None: `TimestepEmbedding()`.
        patches: the embedding of the patches, an unbuilt layer with arguments patch_size and
            hidden_size, which it is given; None: `PatchEmbedding`.
        in_context: what puts tokens in front of those of the image, made of the sum of what the
            conditions say, an unbuilt layer such as `InContextTokens(32)`; None: nothing.
        in_context_start: the block from which on these go through the blocks; counted from 0.
        final_norm: the norm before the last linear map, an unbuilt layer; None: `LayerNorm()`.
        image_sizes: (H, W) of other images that it is called with, such as the buckets of a
            training with several sizes; None: all are of input_shape. Neighbouring tokens are as
            far apart in each, so that it is what `adapt.resize` to that size makes of it.
        dtype: a Keras dtype policy such as "mixed_bfloat16". Time features and the output are
            float32 under any policy.

    Call:
        x (B, H, W, C), t (B,), y -> float32 (B, H, W, output_channels), H and W of input_shape or
        one of image_sizes.
        t is on the DDPM scale 0 … 999 and may be fractional. y is the value of the network's
        condition, for classes integers (B,); of several conditions a dict of their values by name.
        What is None or missing is not said. hidden=(1, 3) gives the output and a list of the
        tokens (B, T, D) after the first and the third block.

    Raises:
        ValueError: where the numbers above do not fit each other.

    Example:

    >>> network = DiTModel(
    ...     (8, 8, 1), patch_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=10)
    >>> output = network(np.zeros((2, 8, 8, 1)), np.array([10.0, 500.0]), np.array([3, 7]))
    >>> output.shape
    (2, 8, 8, 1)
    >>> bool(ops.all(output == 0))  # a new one gives 0, as DiT does
    True

    Reference:
        Peebles, Xie: Scalable Diffusion Models with Transformers (2023), figure 3.
    """

    def __init__(
        self,
        input_shape: tuple,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int | None = None,
        num_classes: Any = None,
        *,
        mlp_ratio: float = 4.0,
        learned_variance: bool = False,
        output_channels: int | None = None,
        conditions: dict | None = None,
        condition_dropout: float = 0.1,
        remat: bool = False,
        block: keras.Layer | None = None,
        time: keras.Layer | None = None,
        final_norm: keras.Layer | None = None,
        patches: keras.Layer | None = None,
        in_context: keras.Layer | None = None,
        in_context_start: int = 0,
        image_sizes: Any = None,
        label_dropout: float | None = None,  # the name of condition_dropout in 0.1.0
        trainable: bool = True,
        **kwargs,
    ):
        # Without autocast t and x arrive as they are: bfloat16 would round t.
        if type(self) is DiTModel and kwargs.get("name") is None:  # Keras would say di_t_model
            count = keras.backend.get_uid("dit")
            kwargs["name"] = "dit" if count == 1 else f"dit_{count - 1}"
        super().__init__(autocast=False, **kwargs)
        config = {
            "patch_size": patch_size,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "num_classes": num_classes,
            "mlp_ratio": mlp_ratio,
            "learned_variance": learned_variance,
            "output_channels": output_channels,
            "condition_dropout": condition_dropout if label_dropout is None else label_dropout,
            "remat": remat,
            "in_context_start": in_context_start,
        }
        self.config = {"input_shape": _shape(input_shape)}
        self.config.update({name: _plain(value) for name, value in config.items()})
        if image_sizes:
            self.config["image_sizes"] = checks.image_sizes(image_sizes, self.config)
        conditions = dict(conditions or {})
        checks.check(self.config, conditions, block)
        # As configurations: of layers among its attributes Keras would think that they are its own.
        self.config["conditions"] = {n: self._saved(c, n) for n, c in conditions.items()}
        parts = {"block": block, "time": time, "final_norm": final_norm}
        parts |= {"patches": patches, "in_context": in_context}
        self.config |= {name: self._saved(part, name) for name, part in parts.items()}
        self.remat = remat
        self.image_shape = self.config["input_shape"]
        self.condition_dropout = self.config["condition_dropout"]
        self.learned_variance = self.config["learned_variance"]
        self.output_channels = checks.output_channels_of(self.config)
        self._create_layers(conditions, **parts)
        self.build()
        self._learned = tuple(name for name, w in of_weights(self).items() if w.trainable)
        self.trainable = trainable  # now that there are layers to tell

    @classmethod
    def from_preset(cls, preset: Any, **overrides) -> Any:
        """A new network of a published size, or one with published weights.

        Args:
            preset: "dit_s_2" … "dit_xl_8": size s, b, l or xl, patch 2, 4 or 8; or
                "lightningdit_b_1" … "lightningdit_xl_2", or "jit_b_16" … "jit_g_32". Or what
                holds weights (`keras_dit.weights.load`): a file, a folder, `hf://owner/name`.
            **overrides: the other arguments of `DiTModel`; a new network needs `input_shape`.

        Raises:
            FileNotFoundError: for a path where nothing is.
            ValueError: for an unknown name, with the valid ones, or a file that is no network.
        """
        open_weights = None if preset in PRESETS else OPENERS.of(preset)
        if open_weights:
            return open_weights(preset, **overrides)
        return cls(**{**preset_config(preset), **overrides})

    def _saved(self, part, name):
        """A part as the configuration holds it, by the name that it has here."""
        return part and save_part(copy_part(part, name, self))

    def _create_layers(self, conditions, block, time, final_norm, patches, in_context):
        config, dtype = self.config, self.dtype_policy
        sized = {"hidden_size": config["hidden_size"]}
        cut = {"patch_size": config["patch_size"], **sized}
        self.patches = copy_part(patches or PatchEmbedding(**cut), "patches", self, **cut)
        self.time = copy_part(time or TimestepEmbedding(), "time", self, **sized)
        if config["num_classes"] is not None:
            conditions = {"label": Label(config["num_classes"]), **conditions}
        self.conditions = {n: copy_part(c, n, self, **sized) for n, c in conditions.items()}
        block = block or AdaLNBlock(config["num_heads"], config["mlp_ratio"])
        if any(c.gives_tokens for c in conditions.values()) and not getattr(
            block, "sees_tokens", True
        ):
            raise ValueError(
                "a condition gives tokens, and the block has no attention to them: give "
                "AdaLNBlock(num_heads, cross_attention=CrossAttention(num_heads)), or an attention "
                f"that sees them. Received: block={block!r}"
            )
        self.in_context = in_context and copy_part(in_context, "in_context", self)
        self.blocks = [copy_part(block, f"block_{i}", self) for i in range(config["depth"])]
        output_shape = (*self.image_shape[:2], self.output_channels)
        patch = config["patch_size"]
        self.final = FinalLayer(output_shape, patch, final_norm, dtype=dtype, name="final")

    def build(self, *_) -> None:
        height, columns, _ = self.image_shape
        width, patch = self.config["hidden_size"], self.config["patch_size"]
        rows, columns = height // patch, columns // patch
        self.grid = _grid(rows, columns)  # (T, 2)
        self.positions = self.add_weight(
            shape=(1, rows * columns, width), initializer="zeros", trainable=False, name="positions"
        )
        self.positions.assign(sincos_positions(rows, columns, width)[None])
        self._others = {}
        for size in self.sizes[1:]:
            rows, columns = self._sides(size)
            self._others[size] = sincos_positions(rows, columns, width)[None]
        self.patches.build((None, *self.image_shape))
        self.time.build((None,))
        for condition in self.conditions.values():
            condition.build((None,))
        tokens, context = (None, rows * columns, width), Context((None, width))
        if any(condition.gives_tokens for condition in self.conditions.values()):
            context = Context((None, width), (None, None, width), (None, None))
        if self.in_context is not None:
            self.in_context.build(tokens, context.vector)
        for block in self.blocks:
            block.build(tokens, context)
        self.final.build(tokens, context)

    def call(
        self,
        x: Any,
        t: Any,
        y: Any = None,
        training: bool | None = None,
        dropped: Any = None,
        hidden: tuple = (),
    ) -> Any:
        if y is not None and training:
            count = ops.shape(x)[0]
            y = self.drop(y, self.draw_dropped(count) if dropped is None else dropped)
        size = tuple(x.shape[1:3])
        tokens, context = self.embed(x, t, y)  # (B, T, D), Context
        kept, done = [], 0
        for end in sorted(hidden):
            tokens = self.run_blocks(self.blocks[done:end], tokens, context, training, size)
            kept.append(self._of_image(tokens))
            done = end
        tokens = self.run_blocks(self.blocks[done:], tokens, context, training, size)  # (B, T, D)
        image = self.image(tokens, context, size)  # (B, H, W, O)
        return (image, kept) if hidden else image

    # The parts of a call, for who runs them otherwise

    def embed(self, x: Any, t: Any, y: Any = None) -> Any:
        """What the first block is given: tokens (B, L + T, D) and the `Context`.

        The first L are those of `in_context`, which wait for the block that they start from.
        """
        positions = self.positions_of(tuple(x.shape[1:3]))  # (1, T, D)
        x, batch_size = ops.cast(x, self.compute_dtype), ops.shape(x)[0]
        tokens = self.patches(x) + ops.cast(positions, self.compute_dtype)
        told = self._told(y)
        if self.in_context is not None:
            vectors = [one.vector for one in told if one.vector is not None]
            nothing = ops.zeros((1, self.config["hidden_size"]), self.compute_dtype)
            tokens = self.in_context(tokens, sum(vectors, nothing))
        return tokens, self._context(batch_size, t, told)

    def run_blocks(
        self,
        blocks: Any,
        tokens: Any,
        context: Any,
        training: bool | None = None,
        size: tuple | None = None,
    ) -> Any:
        """The tokens (B, L + T, D) after some of the blocks, of images (H, W); None: the usual."""
        grid = self.grid if size in (None, self.image_shape[:2]) else _grid(*self._sides(size))
        if self.in_context is None:
            return self._run(blocks, tokens, context, grid, training)
        count = self.in_context.count
        waited_for = self.blocks[: self.config["in_context_start"]]
        early = [block for block in blocks if block in waited_for]
        if early:
            image = self._run(early, tokens[:, count:], context, grid, training)
            tokens = ops.concatenate([tokens[:, :count], image], axis=1)
        late = [block for block in blocks if block not in waited_for]
        return self._run(late, tokens, context, self.in_context.places(grid), training)

    def _run(self, blocks, tokens, context, positions, training):
        positions = ops.convert_to_tensor(positions)
        for block in blocks:
            run = _rematerialised(block) if self.remat and training else block
            tokens = run(tokens, context, positions)
        return tokens

    def image(self, tokens: Any, context: Any, size: tuple | None = None) -> Any:
        """The output, float32 (B, H, W, O), of the last block's tokens; (H, W): `size`."""
        return ops.cast(self.final(self._of_image(tokens), context, size=size), "float32")

    def positions_of(self, size: tuple) -> Any:
        """The positions (1, T, D) of the tokens of images (H, W).

        Raises:
            ValueError: for a size that the network is not for.
        """
        if size == self.image_shape[:2]:
            return self.positions
        if size not in self.sizes:
            allowed = " or ".join(f"{height} x {width}" for height, width in self.sizes)
            raise ValueError(
                f"the network is for images of {allowed}: give the others as image_sizes. "
                f"Received: {size[0]} x {size[1]}"
            )
        return self._others[size]

    def _sides(self, size):
        """Rows and columns of the patches of such images."""
        height, width = size
        return height // self.config["patch_size"], width // self.config["patch_size"]

    def _of_image(self, tokens):
        return tokens if self.in_context is None else tokens[:, self.in_context.count :]

    def context(self, batch_size: Any, t: Any, y: Any = None) -> Context:
        """The `Context` of times and conditions."""
        return self._context(batch_size, t, self._told(y))

    def _told(self, y):
        """The `Context` of each condition, of one sample where nothing is said."""
        given, told = self.named(y), []
        for name, condition in self.conditions.items():
            value = given.get(name)
            # What is dropped has been: Keras would hand the training of this call down.
            told.append(condition(condition.null(1) if value is None else value, training=False))
        return told

    def _context(self, batch_size, t, told):
        vector = self.time(ops.broadcast_to(ops.cast(t, "float32"), (batch_size,)))
        for one in told:
            if one.vector is not None:
                vector = vector + one.vector  # (B, D)
        sequences = [one for one in told if one.tokens is not None]
        if not sequences:
            return Context(vector)
        tokens = [_for_all(one.tokens, batch_size) for one in sequences]
        masks = [_for_all(one.mask, batch_size) for one in sequences]
        return Context(vector, ops.concatenate(tokens, axis=1), ops.concatenate(masks, axis=1))

    @property
    def sizes(self) -> tuple:
        return (self.image_shape[:2], *self.config.get("image_sizes", ()))

    def compute_output_shape(self, x_shape: tuple, *_) -> tuple:
        return (*x_shape[:-1], self.output_channels)

    def get_config(self) -> dict:
        base = super().get_config()
        dtype = keras.dtype_policies.serialize(backend.saved_policy(self))
        own = {"name": base["name"], "trainable": base["trainable"], "dtype": dtype}
        frozen = {"frozen": self._frozen()} if self._frozen() else {}
        return {**own, **frozen, **self.config}

    def _frozen(self):
        """The names of the weights that training leaves as they are, where it moves others."""
        if has_adapters(self) or not self.trainable:
            return []  # a file has the adapters merged, or says of all that they are not trained
        weights = of_weights(self)
        return [name for name in self._learned if not weights[name].trainable]

    def get_build_config(self) -> None:
        return None  # built at construction

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        config = legacy.translated("DiTModel", config)
        frozen = config.pop("frozen", ())
        network = cls(**load_parts(config, *PARTS))
        weights = of_weights(network)
        for name in frozen:
            weights[name].trainable = False
        return network


def _rematerialised(block):
    # backend.remat wraps a function of positional tensors on every backend, a layer on none.
    def run(tokens, context, positions):
        there = [name for name, part in context._asdict().items() if part is not None]
        parts = [getattr(context, name) for name in there]

        def plain(tokens, *parts):
            return block(tokens, Context(**dict(zip(there, parts))), positions)

        return backend.remat(plain)(tokens, *parts)

    return run


def _grid(rows, columns):
    return grid_positions(rows, columns).astype("int32")  # exact in any dtype


def _for_all(x, batch_size):
    """(1, ...) or (B, ...) -> (B, ...)"""
    return ops.broadcast_to(x, (batch_size, *x.shape[1:]))


def _plain(value):
    """A number of numpy, such as labels.max() + 1, as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _shape(value):
    try:
        return tuple(map(_plain, value))
    except TypeError:
        raise ValueError(f"input_shape must be three integers. Received: {value!r}") from None
