"""A program for the tests: trains on so many devices, or as one process of several, and writes the
numbers that must not depend on how many there were.

    python several_devices.py DEVICES FOLDER [OTHER]

FOLDER gets found.npz and run/, checkpoints. From those in OTHER, the folder of such a run on
another number of devices, a run goes on. Processes of JAX and TensorFlow do `others` alone.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys

import numpy as np

BACKEND = os.environ["KERAS_BACKEND"]
# Whether this is one of several processes of JAX or TensorFlow.
TOGETHER = "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ or "TF_CONFIG" in os.environ


def one_of(devices):
    """Begin on the devices, each backend as its users do; gives what the model is made in."""
    if BACKEND == "jax":
        import jax
        import keras

        if TOGETHER:
            keras.distribution.initialize()
            together = keras.distribution.DataParallel(auto_shard_dataset=False)
            keras.distribution.set_distribution(together)
            return contextlib.nullcontext()
        jax.config.update("jax_num_cpu_devices", devices)
        if devices > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())
    elif BACKEND == "torch" and "RANK" in os.environ:
        import torch

        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo")
    elif BACKEND == "tensorflow" and TOGETHER:
        import tensorflow as tf

        from keras_dit import backend
        from keras_dit.backend import launching

        launching._wait_longer(launching._workers_told())  # on a busy machine
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        with strategy.scope():
            backend.reads_together()  # so that they know each other before there is a model
        return strategy.scope()
    elif BACKEND == "tensorflow" and devices > 1:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, parts)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope()
    return contextlib.nullcontext()


def main(devices, folder, other=None):
    scope = one_of(devices)
    import keras

    import keras_dit
    from keras_dit import backend, checkpoints

    draw = np.random.default_rng(0)
    images = draw.uniform(-1, 1, (24, 4, 4, 1)).astype("float32")
    images[13] = np.nan  # in the second half of its batch: the step is skipped on all devices
    labels = draw.integers(0, 3, 24)
    arrays = images, labels
    batches = keras_dit.datasets.ImageBatches(images, labels, batch_size=8, flip=True)
    found = {}

    def trained(data, accumulate=None, dtype="float32", callbacks=(), optimizer=None):
        keras.utils.set_random_seed(1)
        network = keras_dit.DiTModel(
            (4, 4, 1), 2, 8, 2, 2, num_classes=3, condition_dropout=0.5, remat=True, dtype=dtype
        )
        model = keras_dit.Diffusion(network, ema=0.9)
        # Epsilon, so that a gradient of nothing but rounding moves nothing.
        usual = keras.optimizers.AdamW(
            1e-2, epsilon=1e-3, global_clipnorm=0.5, gradient_accumulation_steps=accumulate
        )
        # On TensorFlow XLA, which is for one device, draws other random numbers.
        model.compile(optimizer or usual, jit_compile=BACKEND == "jax")
        given = {"epochs": 2, "verbose": 0, "shuffle": False, "callbacks": list(callbacks)}
        held = {"validation_data": (images[:8], labels[:8]), "batch_size": 8}
        history = model.fit(*data, **given, **held)
        return model, history.history

    def keep(name, model, history):
        found[f"{name}/weights"] = np.concatenate(
            [np.ravel(w) for w in model.network.get_weights()]
        )
        average = model.average.get_weights()
        found[f"{name}/average"] = np.concatenate([np.ravel(w) for w in average])
        for key, values in history.items():
            found[f"{name}/{key}"] = np.array(values)

    if TOGETHER:
        others(folder, labels, keep, found, scope)
        if backend.leads():
            np.savez(folder / "found.npz", **found)
        return
    with scope:
        kept = checkpoints.Checkpoint(folder / "run", every=0)
        tensorflow = BACKEND == "tensorflow"  # whose optimizers cannot do all of it on several
        accumulate, half = (None, "mixed_bfloat16") if tensorflow else (2, "mixed_float16")
        model, history = trained([batches], accumulate, callbacks=[kept])
        keep("float32", model, history)
        held = images[:8], labels[:8]
        found["evaluated"] = np.array(model.evaluate(*held, batch_size=4, verbose=0))
        if other:
            if backend.leads():
                (folder / "again").mkdir()
                shutil.copy(other / "run" / "step_00000004.safetensors", folder / "again")
            backend.barrier()
            kept = checkpoints.Checkpoint(folder / "again", resume=True)
            keep("resumed", *trained([batches], accumulate, callbacks=[kept]))
        sgd = keras.optimizers.SGD(1e-2)
        keep("half", *trained(arrays, dtype=half, optimizer=sgd))
        others(folder, labels, keep, found, contextlib.nullcontext())
        if BACKEND != "torch":
            autoencoder(np.nan_to_num(images), found)
        if devices > 1 and BACKEND == "jax":
            with sharded(devices):
                model, history = trained([batches], accumulate)
                keep("sharded", model, history)
                found["bytes"] = held_by_devices([*model.variables, *model.optimizer.variables])
        if devices > 1:
            found["refused"] = refused(model, images, labels)
        if devices > 1 and tensorflow:
            found["undecided"] = np.array(undecided(model))
    if backend.leads():
        np.savez(folder / "found.npz", **found)


def others(folder, labels, keep, found, scope):
    """Train on latents that were cached, on whole batches of a data set without parts, and on what
    a generator gives, of several processes to each its part.

    What is saved and drawn then is made by one process, while others wait for it.
    """
    import keras

    import keras_dit
    from keras_dit import backend, checkpoints, codecs, datasets

    keras.utils.set_random_seed(1)
    small = {"groups": 2, "quant_conv": False, "mid_attention": False}
    codec = codecs.Autoencoder(codecs.AutoencoderKL(1, 2, (4,), 1, **small))
    posteriors = np.random.default_rng(0).normal(size=(24, 2, 4, 4, 4)).astype("float16")
    if backend.leads():
        made = {"identity": codec.identity}
        sizes = {"count": 24, "shape": (4, 4, 4), "image_shape": (4, 4, 1), "shard": 16}
        kept = {"dtype": "float16", "flips": True, "class_names": tuple("abc")}
        facts = datasets.LatentFacts(**sizes, **kept, autoencoder=made)
        with datasets.LatentWriter(folder / "latents", facts, labels) as writer:
            writer.append(posteriors)
    backend.barrier()

    class Whole(keras.utils.PyDataset):
        def __init__(self, seed=0):
            super().__init__()
            self.order = np.random.default_rng(seed).permutation(24)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            chosen = self.order[index * 8 : (index + 1) * 8]
            return posteriors[chosen, 0], labels[chosen]

    with scope:
        network = keras_dit.DiTModel((4, 4, 2), 2, 8, 1, 2, num_classes=3, condition_dropout=0.5)
        model = keras_dit.Diffusion(network, codec=codec, ema=0.9)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    latents = datasets.cached_latents(folder / "latents", 8, flip=True)

    def generator():
        while True:
            yield from (latents.batch(0, index, backend.processes()) for index in range(3))

    kept = checkpoints.Checkpoint(folder / "latents_run", every=0)
    for name, data, rest in (
        ("latents", latents, {"callbacks": [kept]}),
        ("whole", Whole(), {}),
        ("generator", generator(), {"steps_per_epoch": 3, "epochs": 2}),
    ):
        keep(name, model, model.fit(data, verbose=0, **rest).history)
    if backend.leads():
        model.save(folder / "model.keras")
        found["drawn"] = model.generate([0, 1, 2], steps=1)
        (folder / "asked").mkdir()
        shutil.copy(folder / "latents_run" / "step_00000001.safetensors", folder / "asked")
    backend.barrier()
    found["ended"] = np.array(ended(model, latents, folder / "asked"))
    keep("asked", model, {})
    if BACKEND == "torch" and backend.processes()[1] > 1:
        numbers = [np.full(size, backend.processes()[0], "float32") for size in (3, (300, 300))]
        means = backend.mean([None, *map(keras.ops.convert_to_tensor, numbers)])
        found["means"] = np.concatenate([keras.ops.convert_to_numpy(x).ravel() for x in means[1:]])
    if backend.processes()[1] > 1:
        batches = (latents.batch(0, index) for index in range(3))
        found["unshared"] = np.array(said(lambda: model.fit(batches, verbose=0)))
        differing = Whole(seed=backend.processes()[0])
        found["differing"] = np.array(said(lambda: model.fit(differing, verbose=0)))


def autoencoder(images, found):
    """Train an autoencoder on what a generator gives."""
    import keras

    from keras_dit import codecs

    keras.utils.set_random_seed(1)
    small = {"groups": 2, "quant_conv": False, "mid_attention": False}
    network = codecs.AutoencoderKL(1, 2, (4,), 1, **small)
    trainer = codecs.AutoencoderTrainer(network, 0.1)
    trainer.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    batches = ((images[8 * (i % 3) : 8 * (i % 3) + 8],) for i in range(7))
    history = trainer.fit(batches, steps_per_epoch=3, epochs=2, verbose=0).history
    found |= {f"autoencoder/{name}": np.array(values) for name, values in history.items()}
    found["autoencoder/weights"] = np.concatenate([np.ravel(w) for w in network.get_weights()])


def ended(model, data, folder):
    """Where a training ends that goes on after its first step, of which one process is asked to end
    while it saves the second."""
    from keras_dit import backend, checkpoints

    class Asked(checkpoints.Checkpoint):
        def save(self, best=False):
            if backend.leads() and self.steps == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            super().save(best)

    try:
        model.fit(data, verbose=0, callbacks=[Asked(folder, every=0, resume=True)])
    except checkpoints.Interrupted as interruption:
        return interruption.path.name
    return "nowhere"


def sharded(devices):
    """The weights cut over the devices too."""
    import keras

    from keras_dit.networks import layout_map

    mesh = keras.distribution.DeviceMesh((devices,), ["batch"], keras.distribution.list_devices())
    layouts = layout_map(mesh)
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope()


def held_by_devices(variables):
    """The bytes that each device holds, and those of all variables once."""
    shards = [shard for v in variables for shard in v.value.addressable_shards]
    devices = {shard.device.id for shard in shards}
    held = [sum(s.data.nbytes for s in shards if s.device.id == one) for one in devices]
    return np.array([*held, sum(v.value.nbytes for v in variables)])


def refused(model, images, labels):
    """What is said to a batch that the devices cannot share."""
    return np.array(said(lambda: model.fit(images, labels, batch_size=7, verbose=0)))


def undecided(model):
    """What is said to optimizers that devices of TensorFlow cannot move together."""
    from keras import optimizers

    import keras_dit

    network = keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, dtype="mixed_float16")
    refused_ones = [
        (model, optimizers.SGD(1e-2, gradient_accumulation_steps=2)),
        (model, optimizers.LossScaleOptimizer(optimizers.SGD(1e-2))),
        (keras_dit.Diffusion(network), None),
    ]
    return [said(lambda one=one, own=own: one.compile(own)) for one, own in refused_ones]


def said(act):
    """The message of a ValueError."""
    try:
        act()
    except ValueError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(pathlib.Path, sys.argv[2:]))
