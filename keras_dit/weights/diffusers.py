"""The folders of diffusers: config.json and diffusion_pytorch_model.safetensors, shards or .bin.

diffusers is DiT with three differences. Its time frequencies are exp(−ln(10000) i / (half − 1)),
the norm before each MLP has the epsilon of its config, by default 1e-5, and each block has a copy
of the time's and the label's embedder. If those copies differ, no single embedder stands for them.
"""

import functools
import pathlib

import numpy as np

from keras_dit import codecs, predictions, processes, schedules
from keras_dit.conditions import TimestepEmbedding
from keras_dit.layers import AdaLNBlock, LayerNorm, sincos_positions
from keras_dit.notices import warn
from keras_dit.weights import autoencoders, files, layout
from keras_dit.weights import facts as travelling
from keras_dit.weights import source as sources
from keras_dit.weights.files import Stored, folders, joined, some
from keras_dit.weights.format import Format

_FILE = "diffusion_pytorch_model"
AUTOENCODER = "vae"  # its folder in that of a pipeline
_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
_NUMBERS = (
    "num_attention_heads", "attention_head_dim", "in_channels", "num_layers",
    "sample_size", "patch_size", "num_embeds_ada_norm",
)  # fmt: skip
_PIPELINE_CLASSES = 1000  # the null class is built into DiTPipeline
_FLOW = "FlowMatchEulerDiscreteScheduler"
_BETAS = {"linear": schedules.LinearBeta, "scaled_linear": schedules.ScaledLinearBeta}
_PREDICTIONS = {
    "epsilon": predictions.Noise,
    "v_prediction": predictions.V,
    "sample": predictions.CleanSample,
}


class Diffusers(Format):
    """A folder of diffusers: a pipeline, or its transformer."""

    title = "a folder of diffusers with a DiTTransformer2DModel"
    suffixes = ("",)
    hub_patterns = (
        "config.json",
        "model_index.json",
        f"{_FILE}*",
        "transformer/*",
        "scheduler/scheduler_config.json",
        "vae/*",
    )
    keeps_facts = True
    autoencoder = AUTOENCODER

    def detect(self, path):
        return path.is_dir()

    def open(self, path):
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        config = folders.read_json(folder / "config.json")
        _check(config, folder)
        stored, file = folders.tensors(folder, _FILE)
        tensors = _renamed(stored, config["num_layers"], folder)
        rows = config["sample_size"] // config["patch_size"]
        width = config["num_attention_heads"] * config["attention_head_dim"]
        tensors["pos_embed"] = Stored(
            (1, rows * rows, width), lambda: sincos_positions(rows, rows, width)[None]
        )
        facts = travelling.parsed(file and files.note(file, travelling.NAME), folder)
        process, notes = _process_of(path, facts)
        return sources.Source(
            str(path),
            {**_network_config(config, _scheduler(path)), **facts["network"]},
            tensors,
            process,
            _class_names(path, facts),
            notes,
            lambda: {**_codec(path), **travelling.codec(facts, path)},
        )

    def check(self, path):
        files.check_library(f"{_FILE}.safetensors")

    def export(self, network, path, facts=None):
        folder = pathlib.Path(path)
        layout.check_parts(network)
        _check_export(network)
        tensors = _foreign(layout.save(network), network.config["depth"])
        notes = {} if facts is None else {travelling.NAME: travelling.text(facts)}
        scheduler = _scheduler_config(travelling.process(facts or {}, path))
        files.write(tensors, folder / f"{_FILE}.safetensors", notes)
        folders.write_json(folder / "config.json", _foreign_config(network))
        if scheduler:
            folders.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)


def _check(config, folder):
    """Raise ValueError for the configuration of anything but a DiT."""
    name = config.get("_class_name")
    if name not in _CLASSES:
        raise ValueError(f"{folder} holds a {name}, not a {_CLASSES[0]}")
    for key in _NUMBERS:
        if type(config.get(key)) is not int or config[key] < 1:
            raise ValueError(f"{folder}/config.json: {key} must be a positive integer, "
                             f"not {config.get(key)!r}")  # fmt: skip
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{folder}/config.json: {key}={config[key]!r} makes no DiT: {value!r}")


def _network_config(config, scheduler):
    channels, side = config["in_channels"], config["sample_size"]
    output_channels = config.get("out_channels") or channels
    if output_channels not in (channels, 2 * channels):
        raise ValueError(f"out_channels={output_channels} does not go with in_channels={channels}")
    mlp_norm = LayerNorm(config.get("norm_eps", 1e-5))
    return {
        "input_shape": (side, side, channels),
        "patch_size": config["patch_size"],
        "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        "depth": config["num_layers"],
        "num_heads": config["num_attention_heads"],
        "num_classes": config["num_embeds_ada_norm"],
        **sources.channels(output_channels, channels, not _flows(scheduler)),
        "time": TimestepEmbedding(frequency_shift=1),
        "block": AdaLNBlock(config["num_attention_heads"], norm=(LayerNorm(), mlp_norm)),
    }


# Names


def names(depth: int) -> dict:
    """{name of facebookresearch/DiT: (how, names of diffusers)} without ".weight" and ".bias"."""
    block = "transformer_blocks.{}.".format
    copies = [block(i) + "norm1.emb." for i in range(depth)]
    names = {
        "x_embedder.proj": (_one, ["pos_embed.proj"]),
        "t_embedder.mlp.0": (_tied, [c + "timestep_embedder.linear_1" for c in copies]),
        "t_embedder.mlp.2": (_tied, [c + "timestep_embedder.linear_2" for c in copies]),
        "y_embedder.embedding_table": (
            _tied,
            [c + "class_embedder.embedding_table" for c in copies],
        ),
        "final_layer.adaLN_modulation.1": (_one, ["proj_out_1"]),
        "final_layer.linear": (_one, ["proj_out_2"]),
    }
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", block(i)
        names |= {
            ours + "adaLN_modulation.1": (_one, [theirs + "norm1.linear"]),
            ours + "attn.qkv": (joined, [f"{theirs}attn1.to_{part}" for part in "qkv"]),
            ours + "attn.proj": (_one, [theirs + "attn1.to_out.0"]),
            ours + "mlp.fc1": (_one, [theirs + "ff.net.0.proj"]),
            ours + "mlp.fc2": (_one, [theirs + "ff.net.2"]),
        }
    return {
        f"{name}.{part}": (how, [f"{other}.{part}" for other in others])
        for name, (how, others) in names.items()
        for part in ("weight", "bias")
        if not (name.startswith("y_embedder") and part == "bias")
    }


def _one(parts):
    return parts[0]


def _tied(parts):
    """Copies of one tensor as that tensor; reading it makes sure that they are copies."""

    def read():
        first = parts[0].read()
        for part in parts[1:]:
            if not np.array_equal(part.read(), first, equal_nan=True):
                raise ValueError(
                    "the blocks' copies of the time and label embedders differ: this network was "
                    "trained with them untied, and no single embedder stands for them"
                )
        return first

    return Stored(parts[0].shape, read)


def _renamed(tensors, depth, folder):
    known = names(depth)
    expected = [other for _, others in known.values() for other in others]
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in set(expected)]
    if missing or extra:
        parts = [f"missing: {some(missing)}"] if missing else []
        parts += [f"unexpected: {some(extra)}"] if extra else []
        raise ValueError(f"{folder} does not fit its config.json: {'; '.join(parts)}")
    return {
        name: how([tensors[other] for other in others]) for name, (how, others) in known.items()
    }


# The process around the network


def _process_of(root, facts):
    """(network -> arguments of `Diffusion`, notes): by the facts, the scheduler, or as DiT's."""
    if facts.get("process"):
        return lambda network: {**_codec(root), **travelling.process(facts, root)}, ()
    notes = () if _scheduler(root) else (
        "no scheduler in it says how it was trained: taken for DiT's DDPM",)  # fmt: skip
    return functools.partial(_process, root), notes


def _scheduler(root):
    """The configuration of the pipeline's scheduler; empty, if there is none."""
    file = root / "scheduler" / "scheduler_config.json"
    return folders.read_json(file) if file.is_file() else {}


def _process(root, network):
    """What the pipeline's scheduler and autoencoder say, or as DiT was trained."""
    parts, scheduler = sources.dit(network), _scheduler(root)
    if scheduler:
        parts["process"] = _of_scheduler(scheduler, network, root)
    return {**parts, **_codec(root)}


def _codec(root):
    """The pipeline's autoencoder as a codec; of one without weights the scale is all there is."""
    folder = root / AUTOENCODER
    if not (folder / "config.json").is_file():
        return {}
    if any(folder.glob(f"{_FILE}.*")):
        return {"codec": autoencoders.load(folder)}
    scale = folders.read_json(folder / "config.json").get("scaling_factor", 0.18215)
    return {"codec": codecs.Latents(scale)}


def _of_scheduler(config, network, root):
    schedule = _schedule(config)
    if _flows(config):
        flow = processes.Process(schedule, predictions.FlowVelocity())
        return processes.fitted(flow, network)
    kind = config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise ValueError(f"{root}/scheduler: prediction_type={kind!r} is not supported")
    prediction = _PREDICTIONS[kind]()
    if network.learned_variance:
        prediction = predictions.LearnedVariance(prediction)
    return processes.for_network(network, schedule=schedule, prediction=prediction)


def _flows(config):
    return config.get("_class_name") == _FLOW


def _schedule(config):
    for key in ("rescale_betas_zero_snr", "trained_betas", "use_dynamic_shifting"):
        if config.get(key):
            raise ValueError(f"the scheduler's {key}={config[key]!r} is not supported")
    if _flows(config):
        return schedules.RectifiedFlow(config.get("shift", 1.0))
    kind, steps = config.get("beta_schedule", "linear"), config.get("num_train_timesteps", 1000)
    if kind == "squaredcos_cap_v2":
        return schedules.CosineBeta(steps)
    if kind not in _BETAS:
        raise ValueError(f"the scheduler's beta_schedule={kind!r} is not supported")
    return _BETAS[kind](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))


def _class_names(root, facts):
    """Those of the facts, or of a pipeline's index: {"0": "tench, Tinca tinca", ...}."""
    if "class_names" in facts:
        return tuple(facts["class_names"])
    index = root / "model_index.json"
    names = folders.read_json(index).get("id2label") if index.is_file() else None
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        return None
    return tuple(str(names[str(i)]) for i in range(len(names)))


# Export


def _check_export(network):
    """ValueError for a network that diffusers does not know; a warning where it differs."""
    config = network.config
    height, width, _ = config["input_shape"]
    if height != width or config["mlp_ratio"] != 4:
        raise ValueError(
            "diffusers knows square images and an MLP of four times the width only. "
            f"Received: input_shape={config['input_shape']}, mlp_ratio={config['mlp_ratio']}"
        )
    if network.time.frequency_shift != 1:
        warn(
            "diffusers computes the time's features otherwise (frequency_shift=1): the exported "
            "network gives somewhat different numbers there, as the published conversions do"
        )
    if network.num_classes not in (None, _PIPELINE_CLASSES):
        warn(
            f"DiTPipeline of diffusers takes {_PIPELINE_CLASSES} for the class of nothing; that of "
            f"this network is {network.num_classes}: call its transformer, not the pipeline"
        )


def _scheduler_config(parts):
    """The scheduler of diffusers for a process, or None, with a warning where there is none."""
    process = parts.get("process")
    schedule = parts.get("schedule", process and process.schedule)
    prediction = parts.get("prediction", process and process.prediction)
    if schedule is None or prediction is None:
        return None
    mean = getattr(prediction, "mean", getattr(prediction, "used", prediction))
    if type(schedule) is schedules.RectifiedFlow and type(mean) is predictions.FlowVelocity:
        return {"_class_name": _FLOW, "num_train_timesteps": 1000, "shift": schedule.shift}
    betas = {"steps": schedule.steps, "start": None, "end": None, **vars(schedule)}
    name = next((name for name, kind in _BETAS.items() if type(schedule) is kind), None)
    if schedule == schedules.CosineBeta(schedule.steps or 1):
        name = "squaredcos_cap_v2"
    kind = next((key for key, kind in _PREDICTIONS.items() if type(mean) is kind), None)
    if name is None or kind is None:
        warn(
            f"diffusers has no scheduler for {schedule} with {prediction}: none is written. "
            "keras_dit reads the process back from the file of tensors"
        )
        return None
    config = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": name,
        "beta_start": betas["start"],
        "beta_end": betas["end"],
        "clip_sample": False,
        "num_train_timesteps": schedule.steps,
        "prediction_type": kind,
    }
    return {name: value for name, value in config.items() if value is not None}


def _foreign(tensors, depth):
    result = {}
    for name, (how, others) in names(depth).items():
        for i, other in enumerate(others):
            result[other] = _third(tensors[name], i) if how is joined else tensors[name]
    return result


def _third(tensor, i):
    rows, *rest = tensor.shape
    size = rows // 3
    return Stored((size, *rest), lambda: tensor.read()[i * size : (i + 1) * size])


def _foreign_config(network):
    config = network.config
    side, _, channels = config["input_shape"]
    return {
        **_FIXED,
        "_class_name": _CLASSES[0],
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["hidden_size"] // config["num_heads"],
        "in_channels": channels,
        "out_channels": network.output_channels,
        "num_layers": config["depth"],
        "sample_size": side,
        "patch_size": config["patch_size"],
        "num_embeds_ada_norm": network.num_classes,
        "norm_eps": network.blocks[0].mlp_norm.epsilon,
    }
