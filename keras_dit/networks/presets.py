"""The table of the published sizes.

Reference:
    Peebles, Xie: Scalable Diffusion Models with Transformers (2023), table 1.
"""

from keras_dit.registry import Openers, Registry

# name: hidden_size, depth, num_heads (table 1 of the paper)
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}


PRESETS = Registry(
    "preset",
    {
        f"dit_{size}_{patch}": {
            "patch_size": patch,
            "hidden_size": width,
            "depth": depth,
            "num_heads": heads,
        }
        for size, (width, depth, heads) in SIZES.items()
        for patch in (2, 4, 8)
    },
)


# A room above that can open something registers it here; `DiTModel.from_preset` asks each.
OPENERS = Openers("opener")


def preset_config(name: str) -> dict[str, int]:
    """patch_size, hidden_size, depth and num_heads of a published size, as a dict.

    Raises:
        ValueError: for an unknown name, with the valid ones, the nearest first.

    Example:

    >>> preset_config("dit_s_4")
    {'patch_size': 4, 'hidden_size': 384, 'depth': 12, 'num_heads': 6}
    """
    return dict(PRESETS.named(name))
