"""keras-dit sample: images from a trained model."""

import pathlib
import time

import numpy as np

from keras_dit import caching, evaluation, files, guidance, images, sampler, solvers
from keras_dit.cli import common, looks, models, options, texts
from keras_dit.cli.common import counted
from keras_dit.registry import nearest_first
from keras_dit.schedules import GRIDS

HELP = "make images with a trained model"
EXAMPLE = """\
MODEL is the folder of a `keras-dit train` or `demo` run, a .keras file, or
weights from elsewhere: a .pt or .safetensors file of facebookresearch/DiT or
SiT, a folder of diffusers, hf://owner/name. Latents are decoded by the model's
autoencoder or --autoencoder; without one they are saved as .npy and shown by
their first three channels. Interrupted with Ctrl-C, what there is by then is
written.

examples, of the folder that the demo makes:
  keras-dit sample demo
  keras-dit sample demo --solver dpmpp-2m --steps 20 --trajectory digits.gif
  keras-dit sample demo --labels 3,3,3,7 --seed 1,2,3,4 --out digits/
examples with models of your own:
  keras-dit sample runs/photos --labels cat,dog --checkpoint best
  keras-dit sample runs/photos --dtype bfloat16
  keras-dit sample runs/captions --prompt "a green five left of a red two"
  keras-dit sample hf://facebook/DiT-XL-2-256 --labels "golden retriever" \\
    --solver ddpm --steps 250 --guidance 4 --guidance-channels 3
  keras-dit sample DiT-XL-2-256x256.pt --labels 207,360 \\
    --autoencoder hf://stabilityai/sd-vae-ft-ema"""

FRAMES = 50  # of a trajectory, at most


def add_arguments(command):
    command.add_argument("model", metavar="MODEL")
    _add_what(command.add_argument_group("what is made"))
    add_how(command.add_argument_group("how it is sampled"))
    add_guidance(command.add_argument_group("guidance"))
    add_cache(command.add_argument_group("parts left out, for speed"))
    models.add_arguments(command.add_argument_group("which weights"))


def _add_what(group):
    which = group.add_mutually_exclusive_group()
    which.add_argument("--labels", help="classes, such as 0,1,2 or cat,dog; default: each in turn")
    which.add_argument("--num-images", type=options.count, metavar="N", help="default: eight rows")
    said = group.add_mutually_exclusive_group()
    prompt = "what a network that is told texts is to show; may be given several times"
    said.add_argument("--prompt", action="append", metavar="TEXT", help=prompt)
    said.add_argument("--prompts", metavar="FILE", help="a prompt in each line; used in turn")
    other = "in pixels, a side or HxW, where it is to be another than that of the training"
    group.add_argument("--image-size", type=options.size, metavar="SIZE", help=other)
    seeds = "one, or one for each image, such as 3,4,5 (default: %(default)s)"
    group.add_argument("--seed", type=options.seeds, metavar="N", default=0, help=seeds)
    out = (
        ".png: a grid; .npy: the numbers; .npz: bytes, as ADM's samples; folder/: a file for each "
        "image (default: %(default)s)"
    )
    group.add_argument("--out", default="grid.png", metavar="FILE", help=out)
    group.add_argument("--trajectory", metavar="GIF", help="write how the images come about")
    size = {"type": options.count, "metavar": "N", "default": 64}
    group.add_argument("--batch-size", **size, help="at once, at most (default: %(default)s)")
    models.add_dtype(group)
    options.add_devices(group)


def add_how(group):
    """The options of the solver and its times."""
    few = f"default: {looks.STEPS}; {looks.FEW} of a network that knows how far steps go"
    group.add_argument("--steps", type=options.count, metavar="N", help=few)
    solver = {"type": options.one_of(solvers.NAMED), "metavar": "NAME", "default": looks.SOLVER}
    names = ", ".join(solvers.NAMED)
    group.add_argument("--solver", **solver, help=f"{names} (default: %(default)s)")
    grid = {"type": options.one_of(GRIDS), "metavar": "NAME"}
    names = ", ".join(GRIDS)
    group.add_argument("--grid", **grid, help=f"times to visit: {names} (default: the schedule's)")


def add_guidance(group):
    """The options of guidance."""
    add = group.add_argument
    usual = f"{looks.GUIDANCE:g}, or {looks.TOLD:g} of a network that is told texts"
    scale = f"how much; 1: none (default: {usual}; to evaluate 1)"
    number = {"type": options.finite, "metavar": "SCALE"}
    add("--guidance", **number, help=scale)
    interval = {"type": options.finite, "nargs": 2, "metavar": ("LOW", "HIGH")}
    add("--guidance-interval", **interval, help="between these times only, such as 0.2 0.8")
    share = {"type": options.finite, "metavar": "SHARE", "default": 0.0}
    rescale = "bring contrast back to that without guidance, 0 to 1 (default: %(default)s)"
    add("--guidance-rescale", **share, help=rescale)
    channels = "guide the first so many channels only: 3, as DiT was published on latents"
    add("--guidance-channels", type=options.count, metavar="N", help=channels)
    add("--negative", metavar="LABEL", help="guide away from this class")
    add("--negative-prompt", metavar="TEXT", help="guide away from this text")
    own = "of the prompt alone, where there are labels too; default: as --guidance"
    add("--prompt-guidance", **number, help=own)
    add("--clip", action="store_true", help="clip each step's estimate to the range of pixels")


def add_cache(group):
    """The options of caches."""
    cache = group.add_mutually_exclusive_group()
    threshold = (
        "reuse what the blocks after the first added to an image while what the first adds changes "
        "by less than this share; usual are 0.05 to 0.2, and small batches"
    )
    cache.add_argument("--cache", type=options.finite, metavar="THRESHOLD", help=threshold)
    every = "run the whole network every Nth time only, such as 2 or 3, in batches of any size"
    cache.add_argument("--cache-every", type=options.count, metavar="N", help=every)


def run(arguments):
    out = _target(arguments.out)
    if arguments.trajectory and (arguments.devices or 1) > 1:
        raise ValueError("--trajectory is of one device: leave out --devices")
    with common.claimed(out if _is_folder(out) else out.parent):
        found = models.load(arguments.model, **models.chosen(arguments))
        if arguments.image_size is not None:
            found = models.sized(found, arguments.image_size)
        found = models.in_dtype(found, arguments.dtype)
        arguments.steps = arguments.steps or looks.steps(found.diffusion.network)
        if arguments.guidance is None:
            arguments.guidance = looks.scale(found.diffusion.network)
        request = _request(arguments, found)
        trajectory = sampler.Trajectory() if arguments.trajectory else None
        begun = time.perf_counter()
        made = found.diffusion.generate(**request, callback=trajectory, verbose=True)
    seconds = time.perf_counter() - begun
    labels, names = request["labels"], found.class_names
    written = _write(out, made, found.diffusion, labels, names)
    if request["conditions"] and _is_folder(out):
        files = [_name(index, labels, names) for index in range(len(made))]
        texts.write_captions(out, files, **request["conditions"])
    print(f"{counted(len(made), 'image')} in {seconds:.1f} s, written to {written}")
    print(f"of {found.taken}; {_settings(arguments, found.diffusion)}")
    if trajectory:
        _write_trajectory(arguments.trajectory, trajectory, made, found.diffusion)


def _request(arguments, found):
    """What `generate` is asked for."""
    network = found.diffusion.network
    classes, seeds = network.num_classes, arguments.seed
    prompts = texts.prompts(arguments, network)
    usual = len(seeds) if isinstance(seeds, list) else looks.ROWS * looks.columns(classes)
    if arguments.prompts or len(arguments.prompt or ()) > 1:
        usual = len(prompts)
    count = arguments.num_images or usual
    labels = _labels(arguments.labels, classes, found.class_names)
    if labels is None and not arguments.prompt and not arguments.prompts:
        labels = looks.labels_in_turn(classes, count)
    count = count if labels is None else len(labels)
    return {
        "labels": labels,
        "num_images": count,
        "conditions": {texts.TEXT: texts.in_turn(prompts, count)} if prompts else None,
        "steps": arguments.steps,
        "solver": solvers.named(arguments.solver),
        "grid": GRIDS.get(arguments.grid),
        "guidance": guidance_of(arguments, network, found.class_names),
        "cache": cache_of(arguments),
        "seed": seeds,
        "batch_size": arguments.batch_size,
    }


def _settings(arguments, model):
    """The settings that another program would have to repeat, in words."""
    guided = f", guidance {arguments.guidance:g}" if model.network.told else ""
    clipped = ", clipped" if arguments.clip else ""
    seed = arguments.seed
    seed = ",".join(map(str, seed)) if isinstance(seed, list) else seed
    return f"{arguments.solver}, {counted(arguments.steps, 'step')}{guided}{clipped}, seed {seed}"


def _is_folder(out):
    return out.suffix == "" or out.is_dir()


def _target(path):
    """Where to write: a file, or a folder for one file an image."""
    out = pathlib.Path(path)
    if not _is_folder(out) and out.suffix not in (".png", ".npy", ".npz"):
        raise ValueError(f"--out must be a .png, .npy or .npz file, or a folder. Received: {path}")
    if _is_folder(out) and out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {path} is a file, not a folder")
    return out


def guidance_of(arguments, network, names):
    """The `Guidance` that `add_guidance` has asked for."""
    scale = arguments.guidance
    if arguments.guidance_interval:
        scale = guidance.Interval(scale, *arguments.guidance_interval)
    settings = {"rescale": arguments.guidance_rescale, "channels": arguments.guidance_channels}
    chosen = looks.guided(scale, network, **settings)
    if arguments.negative is not None or arguments.negative_prompt is not None:
        away = _away(arguments, network.num_classes, names)
        chosen = guidance.Negative(told=away, scale=scale, **settings)
    if arguments.prompt_guidance is not None:
        _check_alone(arguments)
        scales = dict.fromkeys(network.told, arguments.guidance)
        chosen = guidance.PerCondition({**scales, texts.TEXT: arguments.prompt_guidance})
    return guidance.Clipped(chosen) if arguments.clip else chosen


def _check_alone(arguments):
    names = ("negative", "negative_prompt", "guidance_interval", "guidance_channels")
    others = [name for name in names if getattr(arguments, name) is not None]
    others += ["guidance_rescale"] if arguments.guidance_rescale else []
    if others:
        raise ValueError(f"--prompt-guidance goes without {options.spelled(others[0])}")


def _away(arguments, classes, names):
    """What images are kept away from, by the names of conditions."""
    away = {}
    if arguments.negative is not None:
        if classes is None:
            raise ValueError("--negative: the network has no classes")
        (away["label"],) = _labels(arguments.negative, classes, names, option="--negative")
    if arguments.negative_prompt is not None:
        away[texts.TEXT] = arguments.negative_prompt
    return away


def cache_of(arguments):
    """The `Cache` that `add_cache` has asked for, or None."""
    if arguments.cache is not None:
        return caching.FirstBlockCache(arguments.cache)
    if arguments.cache_every is not None:
        return caching.PeriodicCache(arguments.cache_every)
    return None


def _labels(text, classes, names, option="--labels"):
    """The numbers of classes that are named, or numbered, with commas between them."""
    if text is None:
        return None
    if classes is None:
        raise ValueError(f"{option}: the network has no classes")
    return [_label(part.strip(), classes, names, option) for part in text.split(",")]


def _label(part, classes, names, option):
    found = _named(part, names or ())
    if len(found) == 1:
        return found[0]
    if part.isdecimal() and int(part) < classes:
        return int(part)
    if found:
        numbers = " and ".join(map(str, found))
        raise ValueError(f"{option}: give a number, {numbers} are both called {part!r}")
    allowed = f"a class of 0 ... {classes - 1}"
    if names:
        nearest = nearest_first(part, names)
        more = ", ..." if len(nearest) > 10 else ""
        allowed += f", or one of {', '.join(nearest[:10])}{more}"
    raise ValueError(f"{option}: must be {allowed}. Received: {part!r}")


def _named(part, names):
    """The classes of that name, or with it among their names, as in "tench, Tinca tinca"."""
    whole = [i for i, name in enumerate(names) if name == part]
    return whole or [
        i for i, name in enumerate(names) if part in (one.strip() for one in name.split(","))
    ]


def _write(out, made, model, labels, names):
    """Write the images; of what is none the numbers too. Returns where, in words."""
    if out.suffix == ".npz":
        evaluation.save_batch(out, evaluation.as_bytes(made, model.codec), labels)
        return str(out)
    visible = looks.visible(made, model)
    if out.suffix == ".npy" or not visible:
        numbers = out / "latents.npy" if _is_folder(out) else out.with_suffix(".npy")
        with files.beside(numbers) as new:
            np.save(new, made)
        if out.suffix == ".npy":
            return str(numbers)
    if _is_folder(out):
        unit = looks.to_unit(made, model.codec) if visible else looks.first_channels(made)
        for index, image in enumerate(unit):
            images.save_png(out / _name(index, labels, names), image)
    else:
        looks.save_grid(out, made, model, labels, names)
    return str(out) if visible else f"{numbers}, and shown in {out} by their first channels"


def _name(index, labels, names):
    """00012_cat.png: the number of an image, and its class."""
    if labels is None:
        return f"{index:05d}.png"
    word = names[labels[index]] if names else str(labels[index])
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in word)
    return f"{index:05d}_{plain}.png"


def _write_trajectory(path, trajectory, made, model):
    if not looks.visible(made, model):
        raise ValueError("--trajectory needs images that can be seen, with 1 or 3 channels")
    noisy = trajectory.x_t[:: -(-len(trajectory.t) // FRAMES)]  # (n, N, H, W, C)
    frames = [*map(model.codec.decode, noisy), made[: noisy.shape[1]]]
    across = min(looks.columns(model.network.num_classes), len(made))
    grids = [images.grid(looks.to_unit(frame, model.codec), columns=across) for frame in frames]
    images.save_gif(path, grids)
    print(f"{counted(len(frames), 'frame')} of how they came about written to {path}")
