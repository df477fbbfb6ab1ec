"""The tables of the published sizes.

Reference:
    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), table 1; Yao et al.,
    Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (2025),
    LightningDiT; Li, He: Back to Basics: Let Denoising Generative Models Denoise (2025), JiT.
"""

from typing import Any

from keras_dit.layers import (
    AdaLNBlock,
    BottleneckPatchEmbedding,
    InContextTokens,
    RMSNorm,
    Rotary,
    SelfAttention,
    SwiGLU,
)
from keras_dit.registry import Openers, Registry

# name: hidden_size, depth, num_heads (table 1 of the paper)
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
LIGHTNING = (("b", 1), ("b", 2), ("l", 2), ("xl", 1), ("xl", 2))  # size, patch
# name: the same, the numbers left of a patch, the block that in-context tokens start from
JIT_SIZES = {
    "b": (768, 12, 12, 128, 4),
    "l": (1024, 24, 16, 128, 8),
    "h": (1280, 32, 16, 256, 10),
    "g": (1664, 40, 16, 256, 10),
}


def _numbers(patch, width, depth, heads):
    return {"patch_size": patch, "hidden_size": width, "depth": depth, "num_heads": heads}


# name: the numbers of a size. Its parts, where it has others than DiT: `preset_config`.
PRESETS = Registry(
    "preset",
    {
        **{f"dit_{s}_{patch}": _numbers(patch, *SIZES[s]) for s in SIZES for patch in (2, 4, 8)},
        **{f"lightningdit_{s}_{patch}": _numbers(patch, *SIZES[s]) for s, patch in LIGHTNING},
        **{
            f"jit_{s}_{patch}": _numbers(patch, *JIT_SIZES[s][:3])
            for s in JIT_SIZES
            for patch in (16, 32)
        },
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
    family, size, _ = name.split("_")
    if family == "lightningdit":
        return {**config, **modern_parts(config["num_heads"])}
    if family == "jit":
        return {**config, **jit_parts(config["num_heads"], *JIT_SIZES[size][3:])}
    return config


def modern_parts(num_heads: int, qk_norm: Any = None, mlp_ratio: float = 4.0) -> dict[str, Any]:
    """The block and the final norm of the networks since DiT: RMSNorm, rotary positions, SwiGLU.

    Args:
        num_heads: of each block's attention.
        qk_norm: a norm of each head's queries and keys; None: none.
        mlp_ratio: width of an MLP as large, over that of the tokens.

    Example:

    >>> modern_parts(2)["final_norm"].epsilon
    1e-06
    """
    attention = SelfAttention(num_heads, qk_norm=qk_norm, positions=Rotary())
    block = AdaLNBlock(
        num_heads, mlp_ratio, norm=RMSNorm(), attention=attention, mlp=SwiGLU(mlp_ratio)
    )
    return {"block": block, "final_norm": RMSNorm()}


def jit_parts(num_heads: int, bottleneck: int, start: int, count: int = 32) -> dict[str, Any]:
    """The parts of a JiT, as arguments of `DiTModel`.

    Args:
        num_heads: of each block's attention.
        bottleneck: how many numbers are left of a patch on its way to a token.
        start, count: of the in-context tokens: the block that they start from, how many.

    Example:

    >>> sorted(jit_parts(2, bottleneck=16, start=1))
    ['block', 'final_norm', 'in_context', 'in_context_start', 'patches']
    """
    return {
        **modern_parts(num_heads, qk_norm=RMSNorm()),
        "patches": BottleneckPatchEmbedding(bottleneck),
        "in_context": InContextTokens(count),
        "in_context_start": start,
    }
