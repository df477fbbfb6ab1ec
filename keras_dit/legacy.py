"""What files of 0.1.0 say, in the words of today: the one place that knows both.

A `.keras` file, a checkpoint and a run hold configurations of classes as they were then. Each
translation takes the configuration of one class and gives that of today; one of today comes back
as it is.
"""

from typing import Any


def _hybrid(config):
    config.pop("schedule", None)  # the process has it


def _network(config):
    if "label_dropout" in config:
        config["condition_dropout"] = config.pop("label_dropout")
    if "frequency_shift" in config:
        shift = config.pop("frequency_shift")
        config["time"] = _saved("TimestepEmbedding", frequency_shift=shift) if shift else None
    if "mlp_epsilon" in config:
        epsilon = config.pop("mlp_epsilon")
        norms = [_saved("LayerNorm"), _saved("LayerNorm", epsilon=epsilon)]
        sizes = {"num_heads": config["num_heads"], "mlp_ratio": config.get("mlp_ratio", 4.0)}
        block = _saved("AdaLNBlock", **sizes, norm=norms)
        config["block"] = block if epsilon != 1e-6 else None


def _saved(class_name, **config):
    """A layer of this package as Keras saves it."""
    name = f"keras_dit>{class_name}"
    return {
        "module": "keras_dit.layers",
        "class_name": class_name,
        "registered_name": name,
        "config": config,
    }


_TRANSLATIONS = {"Hybrid": _hybrid, "DiTModel": _network}


def translated(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of any version as one of today.

    Args:
        class_name: of the class that it is for.
        config: as the file has it; it is not changed.
    """
    config = dict(config)
    if class_name in _TRANSLATIONS:
        _TRANSLATIONS[class_name](config)
    return config
