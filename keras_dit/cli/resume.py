"""Going on with a run: as it was set up, but for what is named anew."""

import argparse
import json
import pathlib

from keras_dit.cli import adapters, recipe
from keras_dit.cli.options import spelled
from keras_dit.cli.run_folder import AUTOENCODER
from keras_dit.codecs import Autoencoder
from keras_dit.diffusion import Diffusion

__all__ = ["MAY_CHANGE", "as_trained", "model", "settings"]

# Everything else would be another run: its network, its data or its optimizer's variables.
MAY_CHANGE = {
    "--epochs": "the learning rate's schedule is stretched to the new length",
    "--steps": "the learning rate's schedule is stretched to the new length",
    "--batch-size": "batches are other ones from here on",
    "--learning-rate": "steps are other ones from here on",
    "--schedule": "steps are other ones from here on",
    "--warmup": "steps are other ones from here on",
    "--weight-decay": "steps are other ones from here on",
    "--clip-norm": "steps are other ones from here on",
    "--flip": "images are mirrored from here on",
    "--data": "it has to be the same data at another place",
    "--teacher": "it has to be the same teacher at another place",
    "--checkpoint-every": "",
    "--sample-every": "",
    "--evaluate-every": "",
    "--evaluate-features": "",
    "--tensorboard": "",
    "--any-memory": "",
}
OLD = {"clip_norm": 0.0, "draft": False}  # what 0.1.0, which could not do otherwise, did
OLD_EPOCHS = 100  # where its config.json names neither epochs nor steps


def settings(
    folder: pathlib.Path, given: dict, defaults: dict
) -> tuple[argparse.Namespace, dict, list[str]]:
    """What the run goes on with.

    Args:
        folder: of the run.
        given: the options of this call; None: not given.
        defaults: of options that the run's version did not know.

    Returns:
        The settings, what config.json holds, and what is to be said of changes.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: for an option that cannot be changed.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no run to go on with: there is no {file}")
    config = json.loads(file.read_text())
    old = {**dict.fromkeys(given), **defaults, **OLD, **config["arguments"]}
    if old["steps"] is None and old["epochs"] is None:
        old["epochs"] = OLD_EPOCHS
    changed = {n: v for n, v in given.items() if v is not None and v != old.get(n)}
    _check(changed, file)
    if "steps" in changed:
        old["epochs"] = None
    notes = [_note(name, old[name], value) for name, value in changed.items()]
    return argparse.Namespace(**{**old, **changed}), config, notes


def model(config: dict, folder: pathlib.Path) -> Diffusion:
    """The model of a run as it was set up, with the autoencoder, which checkpoints leave out.

    Args:
        config: what config.json holds.
        folder: of the run.
    """
    made = Diffusion.from_config(config["model"])
    if isinstance(made.codec, Autoencoder):
        kept = Autoencoder.from_preset(folder / AUTOENCODER)
        made.codec.network.set_weights(kept.network.get_weights())
    return made


def as_trained(found: Diffusion, folder: pathlib.Path) -> Diffusion:
    """The model that a run's checkpoints are of, ready for one to be loaded.

    Args:
        found: what the run's model.keras holds; of a run with adapters these are merged there.
        folder: of the run.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {"arguments": {}}
    settings = argparse.Namespace(**config["arguments"])
    if not getattr(settings, "lora", None):
        return found
    made = adapters.resumed(model(config, folder), settings, folder)
    rate = recipe.learning_rate(1.0, steps=1)
    names = ("weight_decay", "clip_norm", "accumulate")
    chosen = {name: getattr(settings, name) for name in names}
    made.compile(recipe.optimizer(rate, settings.optimizer, **chosen))
    return made


def _check(changed, file):
    wrong = [spelled(name) for name in changed if spelled(name) not in MAY_CHANGE]
    if wrong:
        raise ValueError(
            f"--resume goes on with the settings of {file}, of which these may change: "
            f"{', '.join(MAY_CHANGE)}. Leave out {', '.join(wrong)}, or begin another run by --from"
        )


def _note(name, before, now):
    why = MAY_CHANGE[spelled(name)]
    end = f": {why}, so the run is not what it would have been" if why else ""
    was = "not set" if before is None else before
    return f"{spelled(name)} {now}, was {was}{end}"
