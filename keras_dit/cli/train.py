"""keras-dit train: a run's folder from a data set."""

import argparse
import shlex
import time

import keras
import numpy as np

from keras_dit import adapt, backend, datasets, evaluation, processes
from keras_dit.cli import (
    adapters,
    autoencoders,
    common,
    options,
    plan,
    recipe,
    resume,
    run_folder,
    start,
    teaching,
    texts,
)
from keras_dit.cli.common import counted
from keras_dit.cli.progress import TrainingBar
from keras_dit.datasets import sources
from keras_dit.diffusion import Diffusion
from keras_dit.networks import PRESETS, DiTModel
from keras_dit.predictions import LearnedVariance
from keras_dit.training.checkpoints import Checkpoint, Interrupted

HELP = "train a model on a data set"
EXAMPLE = """\
DATA is a name, a folder of images (one folder for each class, or images alone,
perhaps with captions: metadata.jsonl or .csv, or a .txt beside each image), an
.npz or .npy file of arrays, or latents of `keras-dit encode`. What is not said
is chosen by the size of the images, how many there are and the memory that is
free, and printed.

The run's folder gets config.json, log.csv, loss.png, model.keras (about every
minute, and at the end), samples/, autoencoder.keras where there is one, and
checkpoints/, from which a run that was stopped goes on exactly.

examples:
  keras-dit train --data digits --run runs/digits
  keras-dit train --data photos --image-size 64 --flip --run runs/photos
  keras-dit train --data captioned-digits --run runs/captions
  keras-dit train --resume --run runs/photos --epochs 800
  keras-dit train --data latents --run runs/latents --devices 4
  keras-dit train --data cats --image-size 64 --from runs/photos --run runs/cats
  keras-dit train --data pets --image-size 256 --from DiT-XL-2-256x256.pt \\
      --autoencoder hf://stabilityai/sd-vae-ft-ema --lora 16 --run runs/pets"""

PROCESS = 'process: {0}; in Python Diffusion(network, process=processes.named("{0}"))'
NOT_SETTINGS = ("command", "run", "spellings", "debug", "devices", "folder", "resume")

# What is not said is None until `plan.fill` or this has settled it, so that it is known what was.
DEFAULTS = {
    "labels": True,
    "validation": 0.0,
    "method": "flow",
    "optimizer": "adamw",
    "schedule": "cosine",
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "accumulate": 1,
    "ema": 0.9999,
    "seed": 0,
    "draft": True,  # no option, but a run that was begun without goes on without
    "dtype": "float32",
    "any_memory": False,
    "tensorboard": False,
    "evaluate_features": "pixels",
}


def add_arguments(command):
    count = {"type": options.count, "metavar": "N"}
    add = command.add_argument
    add("--run", required=True, dest="folder", metavar="DIR", help="the run's folder, a new one")
    add(
        "--resume",
        action="store_true",
        help=f"go on with the run of that folder; {', '.join(resume.MAY_CHANGE)} may be given anew",
    )
    _add_data(command.add_argument_group("data"), count)
    _add_network(command.add_argument_group("network"), count)
    _add_training(command.add_argument_group("training"), count)
    _add_folder(command.add_argument_group("what is kept"), count)


def _add_data(group, count):
    add, yes = group.add_argument, {"action": "store_true", "default": None}
    add("--data", metavar="DATA", help=f"{', '.join(sources.NAMES)}, a folder or an array file")
    several = "side, or HxW such as 64x96; or several, such as 64,48x80,80x48, of which each image "
    several += "has the one that shows most of it"
    add("--image-size", type=options.sizes, metavar="SIZE", help=several)
    add("--channels", type=int, choices=(1, 3), help="1: grey images stay grey; default: 3")
    add("--flip", **yes, help="mirror images left to right at random; default: latents, if kept")
    made = "the network is to see the latents of that file or folder; default: of DATA"
    add("--autoencoder", metavar="FILE", help=made)
    add(
        "--no-labels",
        dest="labels",
        action="store_false",
        default=None,
        help="leave the classes out",
    )
    add(
        "--validation",
        type=options.share,
        metavar="SHARE",
        help="kept apart, such as 0.05; its loss is in the log",
    )
    add("--limit", **count, help="take so many images at most")


def _add_network(group, count):
    add = group.add_argument
    start = "start from its weights, of a network of its size, perhaps for other data"
    add("--from", dest="source", metavar="MODEL", help=start)
    frozen = (
        "leave out of training the weights whose name it matches, such as 'patches|block_[0-3]/'"
    )
    add("--freeze", metavar="PATTERN", help=frozen)
    adapters.add_training(group)
    preset = options.one_of(PRESETS)
    add(
        "--preset",
        type=preset,
        metavar="SIZE",
        help="dit_{s,b,l,xl}_{2,4,8}, jit_{b,l,h,g}_{16,32} ..., or instead:",
    )
    for name, value in plan.SIZE.items():
        add("--" + name.replace("_", "-"), **count, help=f"default: {value}")
    add("--patch-size", **count, help=f"default: one of at most {plan.MOST_TOKENS} tokens")
    teaching.add_arguments(group)
    methods = f"{', '.join(processes.NAMED)} (default: {DEFAULTS['method']})"
    add("--method", type=options.one_of(processes.NAMED), metavar="NAME", help=methods)
    add("--dtype", metavar="POLICY", help="of Keras, such as mixed_bfloat16; default: float32")


def _add_training(group, count):
    add, named = group.add_argument, _named(group)
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", **count, help="default: by the number of images")
    length.add_argument("--steps", **count, help="instead of epochs, rounded up to whole ones")
    add("--batch-size", **count, help="default: 128, or what fits")
    named("optimizer", recipe.OPTIMIZERS)
    rate = "its peak; default: 0.128 / hidden size"
    add("--learning-rate", type=options.positive_number, metavar="RATE", help=rate)
    named("schedule", recipe.SCHEDULES, "of the learning rate after its warm-up: ")
    natural = {"type": options.natural, "metavar": "N"}
    add("--warmup", **natural, help="steps until the peak; default: a twentieth of all")
    number = {"type": options.amount, "metavar": "NUMBER"}
    add("--weight-decay", **number, help="default: 0")
    add("--clip-norm", **number, help="most that all gradients together are; 0: any; default: 1")
    add("--accumulate", **count, help="batches whose gradients make one step; default: 1")
    decay = f"decay of the average of the weights; default: {DEFAULTS['ema']}"
    add("--ema", type=options.finite, metavar="DECAY", help=decay)
    powers = (
        "instead: averages whose length is chosen after training, with `keras-dit average`. Widths "
        "as shares of the training, default 0.05,0.1; a float32 copy of the weights each, and "
        "snapshots on the disk"
    )
    several = {"nargs": "?", "const": [0.05, 0.1], "metavar": "STD,STD"}
    add("--averages", type=options.numbers, **several, help=powers)
    add("--seed", **natural, help="default: 0")
    remat = "far less memory, a third slower; default: where it is needed"
    add("--remat", action=argparse.BooleanOptionalAction, help=remat)
    yes = {"action": "store_true", "default": None}
    several = "train on so many, which share each batch; default: 1"
    add("--devices", **count, help=several)
    add("--any-memory", **yes, help="begin though the memory seems not to suffice")


def _named(group):
    def named(name, names, words=""):
        words += f"{', '.join(names)} (default: {DEFAULTS[name]})"
        group.add_argument(f"--{name}", type=options.one_of(names), metavar="NAME", help=words)

    return named


def _add_folder(group, count):
    add = group.add_argument
    seconds = "between two checkpoints, at least; default: 60, and 50 times what one takes"
    add("--checkpoint-every", type=options.amount, metavar="SECONDS", help=seconds)
    add("--sample-every", **{**count, "metavar": "EPOCHS"}, help="images on the way")
    scored = "score a thousand images on the way; the best checkpoint is then the one nearest to "
    add("--evaluate-every", **{**count, "metavar": "EPOCHS"}, help=f"{scored}the data")
    what = f"of these scores: {', '.join(evaluation.FEATURES)}, or a file (default: pixels)"
    add("--evaluate-features", metavar="WHAT", help=what)
    add(
        "--tensorboard",
        action="store_true",
        default=None,
        help="write tensorboard/ too (pip install tensorboard)",
    )


def run(arguments):
    backend.reuse_freed_memory()
    with common.claimed(arguments.folder) as folder:
        given = {n: v for n, v in vars(arguments).items() if n not in NOT_SETTINGS}
        if arguments.tensorboard:
            run_folder.check_tensorboard()
        with backend.model_scope():
            settings, model, data = (_old if arguments.resume else _new)(folder, given)
    begun = time.perf_counter()
    keeper = _train(model, data, folder, settings)
    if not backend.leads():
        return
    keeper.finish()
    minutes = (time.perf_counter() - begun) / 60
    print(f"{minutes:.1f} minutes; model and images are in {folder}")
    if not (folder / "loss.png").exists():
        print("a plot of the loss comes with: pip install matplotlib")
    print(f"more images: keras-dit sample {shlex.quote(str(folder))}")


def _new(folder, given):
    """Settings, compiled model and data of a new run, whose folder then has its config.json."""
    if given["data"] is None:
        names = ", ".join(sources.NAMES)
        raise ValueError(f"--data is needed: {names}, a folder of images or an array file")
    if given["ema"] is not None and given["averages"] is not None:
        raise ValueError("--ema and --averages: give one of them")
    if (folder / "config.json").exists():
        raise FileExistsError(
            f"{folder} holds a run already: choose another folder, or go on with it by --resume"
        )
    chosen = {name: given[name] for name in given if given[name] is not None}
    chosen |= plan.suited(given)
    settings = argparse.Namespace(**{**dict.fromkeys(given), **DEFAULTS, **chosen})
    adapters.check(settings)
    recipe.average(settings)  # so that its errors come now
    keras.utils.set_random_seed(settings.seed)
    data = _data(settings)
    codec = autoencoders.codec_for(settings.autoencoder, data)
    teacher = teaching.opened(settings)
    begun = start.opened(settings, given, data, codec) if settings.source else None
    if begun is None:
        model, notes = _from_nothing(settings, given, data, codec, teacher)
    else:
        codec, chosen = begun.codec, plan.fill(settings, data, begun.codec, begun.config)
        model = start.model(begun, settings, given["method"])
        notes = [*begun.notes, *chosen]
    teaching.begin(model, teacher, settings)
    texts.check(model.network, data)
    notes += run_folder.snapshot_notes(model)
    if settings.freeze:
        notes.append(_frozen(model.network, settings.freeze))
    if settings.lora:
        kept = folder if backend.leads() else None
        notes.append(adapters.begin(model, settings, begun.changes, begun.class_names, kept))
    _compile(model, settings, data)
    backend.barrier()  # every process has seen that the folder held no run
    if backend.leads():
        run_folder.keep_autoencoder(folder, codec)
        run_folder.write_config(folder, vars(settings), data, model)
    _say(data, model, notes)
    return settings, model, data


def _from_nothing(settings, given, data, codec, teacher):
    """A model whose weights are drawn, and what there is to say of it."""
    notes = plan.fill(settings, data, codec)
    process = teaching.process(settings, given["method"], teacher)
    variance = isinstance(process.prediction, LearnedVariance)
    config = {**plan.config(settings, data, codec), "learned_variance": variance}
    network = DiTModel.from_config({**config, "dtype": settings.dtype})
    parts = {"process": process, "codec": codec, "class_names": data.class_names or None}
    if teacher is None or given["method"]:
        notes.append(PROCESS.format(settings.method))
    return Diffusion(network, **parts, ema=recipe.average(settings)), notes


def _old(folder, given):
    """Settings, compiled model and data of the run in the folder."""
    settings, config, notes = resume.settings(folder, given, DEFAULTS)
    keras.utils.set_random_seed(settings.seed)
    data = _data(settings)
    model = adapters.resumed(resume.model(config, folder), settings, folder)
    teaching.go_on(model, settings)
    plan.fill(settings, data, model.codec, model.network.get_config())
    _compile(model, settings, data)
    for note in notes:
        print(note)
    backend.barrier()  # every process has read the old one
    if backend.leads():
        run_folder.write_config(folder, vars(settings), data, model)
    return settings, model, data


def _frozen(network, pattern):
    """Freeze what the pattern names; what there is to say of it."""
    said: list[str] = []
    try:
        adapt.freeze(network, pattern, say=said.append)
    except ValueError as error:
        raise ValueError(f"--freeze: its {error}") from None
    return said[0]


def _data(settings):
    names = ("batch_size", "channels", "draft", "flip", "labels", "limit", "seed", "validation")
    chosen = {name: getattr(settings, name) for name in names}
    data = datasets.load(settings.data, image_size=_size(settings.image_size), **chosen)
    settings.flip = data.flip
    return data


def _size(size):
    if not isinstance(size, list):
        return size
    return [tuple(one) for one in size] if np.ndim(size) == 2 else tuple(size)  # JSON has none


def _compile(model, settings, data):
    batches = settings.epochs * len(data)
    if settings.accumulate > batches:
        raise ValueError(
            f"--accumulate {settings.accumulate}: the run has {batches} batches, of which none "
            "would make a step"
        )
    width = model.network.config["hidden_size"]
    rate = recipe.learning_rate(
        settings.learning_rate or 0.128 / width,
        settings.epochs * len(data),
        settings.warmup,
        settings.schedule,
    )
    names = ("weight_decay", "clip_norm", "accumulate")
    chosen = {name: getattr(settings, name) for name in names}
    model.compile(recipe.optimizer(rate, settings.optimizer, **chosen))


def _say(data, model, notes):
    classes = "no classes" if data.num_classes is None else counted(data.num_classes, "class")
    if texts.TEXT in data.conditions:
        classes = "captions" if data.num_classes is None else f"{classes} and captions"
    seen = autoencoders.words(data, model.codec)
    print(f"{counted(len(data.images), 'image')} of {seen}, {classes}")
    print("\n".join(notes))
    print(f"{model.network.count_params():,} parameters")


def _scoring(model, data, settings, bar):
    """The callback that scores on the way, and its name in the logs; or none."""
    if not settings.evaluate_every:
        return [], None
    if evaluation.image_shape(model) != tuple(data.input_shape):
        raise ValueError(
            "--evaluate-every compares images with the data, which are latents: leave it out, and "
            "score the run with keras-dit evaluate"
        )
    with backend.alone():  # as the first process then scores
        features = evaluation.open_features(settings.evaluate_features, data, verbose=True)
        reference = evaluation.reference(data, features, verbose=True)
    every = settings.evaluate_every
    scoring = evaluation.Scoring(reference, features, every, saying=lambda w: bar.bar.saying(w))
    return [scoring], scoring.monitor


def _shared(held, devices):
    """The images for validation, without those at the end that the devices could not share."""
    if devices == 1 or held is None:
        return held
    return held.first(len(held.images) // devices * devices)


def _train(model, data, folder, settings):
    bar = TrainingBar(data.batch_size, lambda: checkpoint.epoch * len(data) + checkpoint.step)
    scoring, monitor = _scoring(model, data, settings, bar)
    # Without a checkpoint it begins, so that a run stopped before its first one can go on too.
    checkpoint = Checkpoint(
        folder / "checkpoints",
        settings.checkpoint_every,
        resume=True,
        changes=("batch_size", "flip"),  # those that are named: `resume.settings` sees to it
        monitor=monitor,
    )
    looked = {"class_names": data.class_names, "prompts": texts.previews(data)}
    written = run_folder.snapshots(folder, model)
    keeper = run_folder.RunFolder(folder, bar, settings.sample_every, **looked)
    log = run_folder.Log(folder / "log.csv", data.batch_size, checkpoint)
    callbacks = [bar, *scoring, log, keeper, *written]
    if settings.tensorboard:
        callbacks.append(run_folder.TensorBoard(folder / "tensorboard"))
    try:
        model.fit(
            data,
            epochs=settings.epochs,
            validation_data=_shared(data.validation, backend.share(model)),
            verbose=0,
            callbacks=[*(callbacks if backend.leads() else ()), checkpoint],
        )
    except Interrupted:
        bar.close()  # so that what follows is below it
        print(f"to go on: keras-dit train --resume --run {shlex.quote(str(folder))}")
        raise
    finally:
        bar.close()
    return keeper
