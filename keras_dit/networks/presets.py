"""The tables of the published sizes.

Reference:
    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), table 1; Yao et al.,
    Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (2025),
    LightningDiT.
"""

from typing import Any

import keras

from keras_dit.layers import AdaLNBlock, LayerNorm, RMSNorm, Rotary, SelfAttention, SwiGLU
from keras_dit.registry import Openers, Registry

# name: hidden_size, depth, num_heads (table 1 of the paper)
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}


def _numbers(size, patch):
    width, depth, heads = SIZES[size]
    return {"patch_size": patch, "hidden_size": width, "depth": depth, "num_heads": heads}


LIGHTNING = (("b", 1), ("b", 2), ("l", 2), ("xl", 1), ("xl", 2))  # size, patch

# name: the numbers of a size. Those of LightningDiT have other parts, too: `preset_config`.
PRESETS = Registry(
    "preset",
    {
        **{f"dit_{size}_{patch}": _numbers(size, patch) for size in SIZES for patch in (2, 4, 8)},
        **{f"lightningdit_{size}_{patch}": _numbers(size, patch) for size, patch in LIGHTNING},
    },
)


# A room above that can open something registers it here; `DiTModel.from_preset` asks each.
OPENERS = Openers("opener")


def preset_config(name: str) -> dict[str, Any]:
    """Arguments of `DiTModel` for a published size, as a dict.

    Raises:
        ValueError: for an unknown name, with the valid ones, the nearest first.

    Example:

    >>> preset_config("dit_s_4")
    {'patch_size': 4, 'hidden_size': 384, 'depth': 12, 'num_heads': 6}
    """
    config = dict(PRESETS.named(name))
    modern = name.startswith("lightningdit")
    return {**config, **lightning_parts(config["num_heads"])} if modern else config


def lightning_parts(
    num_heads: int,
    mlp_ratio: float = 4.0,
    *,
    rms: bool = True,
    rotary: bool = True,
    swiglu: bool = True,
    qk_norm: bool = False,
) -> dict[str, keras.Layer | None]:
    """The block and the final norm of a LightningDiT, whose configurations choose among parts.

    Args:
        num_heads: of each block's attention.
        mlp_ratio: width of an MLP as large, over that of the tokens.
        rms: whether all norms are RMSNorm.
        rotary, swiglu, qk_norm: whether a block has these parts.

    Example:

    >>> lightning_parts(2)["final_norm"].epsilon
    1e-06
    """
    norm = RMSNorm() if rms else LayerNorm()
    of_heads = RMSNorm() if rms else LayerNorm(1e-5, affine=True)
    attention = SelfAttention(
        num_heads, qk_norm=of_heads if qk_norm else None, positions=Rotary() if rotary else None
    )
    mlp = SwiGLU(mlp_ratio) if swiglu else None
    block = AdaLNBlock(num_heads, mlp_ratio, norm=norm, attention=attention, mlp=mlp)
    return {"block": block, "final_norm": RMSNorm() if rms else None}
