"""A device of torch that is none: its numbers are the host's, and what passes between is counted.

`waits` holds, by function of this library, how often the host asked for a number there, or sent one
in a way that waits for what is computed.

    KERAS_BACKEND=torch KERAS_TORCH_DEVICE=fake python fake_device.py

prints as JSON what steps of training and sampling wait for, and what they come to; as it does for
KERAS_TORCH_DEVICE=cpu. `pytest --fake-device` runs the tests there.
"""

import collections
import contextlib
import json
import os
import sys
import traceback

import keras
import numpy as np
import torch
from torch.utils import _pytree, backend_registration

import keras_dit
from keras_dit import codecs, guidance, solvers
from keras_dit.backend import adam, host
from keras_dit.sampling import generation

DEVICE = os.environ["KERAS_TORCH_DEVICE"]
backend_registration._setup_privateuseone_for_python_backend("fake")
waits: collections.Counter = collections.Counter()
aten = torch.ops.aten


class There(torch.Tensor):
    """A tensor on the fake device; `here` is what it holds, a tensor of the host."""

    @staticmethod
    def __new__(cls, here):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        kind = {"dtype": here.dtype, "device": "fake:0"}
        return torch.Tensor._make_wrapper_subclass(cls, here.size(), **layout, **kind)

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), kwargs=None):
        return _computed(operation, arguments, kwargs or {})


def _computed(operation, arguments, kwargs):
    found = [x for x in _pytree.tree_leaves((arguments, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in found if isinstance(x, There)]
    device = kwargs.get("device")
    gives = bool(there) if device is None else torch.device(device).type == "fake"
    crosses = device is not None and (gives if len(there) < len(found) else there and not gives)
    mixed = there and any(x.dim() and not isinstance(x, There) for x in found)
    if mixed and operation.overloadpacket is not aten.copy_:
        raise RuntimeError(f"{operation} of tensors on two devices")
    asked = operation.overloadpacket is aten._local_scalar_dense
    if asked or ((crosses or mixed) and not (gives and kwargs.get("non_blocking"))):
        waits[_caller()] += 1
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}

    def held(x):
        return x.here if isinstance(x, There) else x

    result = operation(*_pytree.tree_map(held, arguments), **_pytree.tree_map(held, kwargs))
    known = {id(x.here): x for x in there}  # what is changed in place stays the same tensor

    def wrapped(x):
        if not (gives and isinstance(x, torch.Tensor)):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return _pytree.tree_map(wrapped, result)


def _caller():
    """The innermost of the functions of this library, or of Keras where there is none."""
    stack = traceback.extract_stack()
    names = (f.name for f in reversed(stack) if f.filename.startswith(keras_dit.__path__[0]))
    return next((name for name in names if name[0] not in "<_"), "?")


def _register(name):
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(aten, packet), overload or "default")

    def kernel(*arguments, **kwargs):
        return _computed(operation, arguments, kwargs)

    _library.impl(name, kernel, "PrivateUse1")


_library = torch.library.Library("aten", "IMPL")
for _name in ("empty.memory_format", "empty_strided", "_copy_from", "_to_copy"):
    _register(_name)
# Such a tensor cannot be made in it.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()
# Why a test is not for this device, with the tests: what it cannot do, and what is not done there.
LEFT_OUT = {
    "a network is computed again for its gradient": """
        test_cli.py::test_a_folder_of_pictures_is_trained_on_in_bfloat16_with_remat
        test_diffusion_fit.py::test_dropped_labels_train_the_null_label
        test_dit.py::test_remat_changes_memory_alone
        test_jit_network.py::test_remat_changes_memory_alone
    """,
    "derivatives in forward mode": """
        test_backend_operations.py::test_the_plain_form_has_a_forward_derivative test_meanflow.py
        test_docstrings.py::test_the_examples_of_a_file_run[objectives/meanflow.py]
    """,
    "a step is recorded, compiled or exported": """
        test_backend.py::test_every_form_gives_the_same
        test_backend.py::test_on_a_gpu_a_record_is_captured_and_gives_the_same
        test_backend_operations.py::test_gradients_through_the_backends_compiler
        test_caching.py::test_a_step_without_a_cache_is_compiled_once_and_once_more_as_the_last
        test_export.py test_keras_layers.py::test_a_network_that_was_never_called_is_exported
        test_recording.py test_flash_attention.py test_training.py::test_a_step_may_be_compiled
    """,
    "another process, in which it is no device": """
        test_backend.py::test_the_command_starts_without_notices
        test_bench.py test_cli_devices.py test_devices.py test_examples.py test_programs.py
        test_cli_latents.py::test_an_encoding_killed_with_9_goes_on_and_ends_with_the_same_bytes
        test_cli_train.py::test_a_run_of_one_device_goes_on_with_two test_sharing.py
        test_evaluation_cli.py::test_a_run_that_was_killed_by_the_system_goes_on test_processes.py
        test_quantization.py::test_the_command_quantizes_and_a_fresh_process_samples_the_same
        test_text.py::test_text_comes_back_in_another_process test_transfers.py
    """,
    "it is of files, or of what is done on the host": """
        test_captioned.py test_checkpoints.py test_cli_info.py test_cli_mistakes.py test_datasets.py
        test_datasets_ahead.py test_datasets_batches.py test_datasets_folders.py test_draws.py
        test_datasets_sources.py test_evaluation_report.py test_files.py
        test_floors.py test_fuzz.py test_images.py test_interrupts.py test_keeping.py
        test_latents_files.py test_metrics.py test_orders.py test_partition.py test_progress.py
        test_serialization.py test_v010.py test_weights.py test_weights_autoencoders.py
        test_weights_broken.py
        test_weights_cli.py test_weights_export.py test_weights_jit.py test_weights_lightningdit.py
        test_weights_pipelines.py test_weights_travel.py
    """,
}


def takes(item):
    """Whether a test of pytest is one for this device."""
    file = item.path.name
    names = {file, f"{file}::{item.originalname}", f"{file}::{item.name}"}
    return not any(names & set(tests.split()) for tests in LEFT_OUT.values())


Generator = torch.Generator
torch.Generator = lambda device=None: Generator()
adam.DEVICES, host.ALONE = (*adam.DEVICES, "fake"), ("fake",)
host.pinned = lambda tensor: tensor  # which is known on a GPU alone


def images(count=4):
    return np.random.default_rng(0).uniform(-1, 1, (count, 4, 4, 1)).astype("float32")


def numbers(tensors):
    return [float(np.sum(keras.ops.convert_to_numpy(x), dtype="float64")) for x in tensors]


def made(**how):
    keras.utils.set_random_seed(0)
    model = keras_dit.Diffusion(keras_dit.DiTModel((4, 4, 1), 2, 8, 1, 2, num_classes=3))
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1, **how))
    model.fit(images(), np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    return model


def asked():
    """What is counted: a number that is asked for, a copy back, an array that is sent and waits."""
    waits.clear()
    one = torch.ones((), device=DEVICE)
    float(one), one.cpu(), torch.as_tensor(np.ones(3), device=DEVICE)
    torch.full((), 2.0, device=DEVICE), torch.ones(3).to(DEVICE, non_blocking=True)  # not these
    return {"waits": dict(waits), "numbers": []}


def paused():
    """What is counted of numbers of Keras: where they do not wait, within that where they do."""
    found = []
    with host.without_waits():
        for pause in (contextlib.nullcontext, host.as_they_come, contextlib.nullcontext):
            waits.clear()
            with pause(), host.without_waits():  # which begins nothing anew
                made = keras.ops.convert_to_tensor(2.0), keras.ops.convert_to_tensor(np.ones(3))
            found.append(sum(waits.values()))
    waits.clear()
    keras.ops.convert_to_tensor(2.0)
    return {"waits": [*found, sum(waits.values())], "numbers": numbers(made)}


def trained(model, x):
    """What a step waits for, and the sums of what it leaves."""
    batch = x, np.array([0, 1, 2, 0])
    waits.clear()
    logs = model.train_step(batch)
    found = dict(waits)
    state = [*model.weights, *model.optimizer.variables]
    return {"waits": found, "numbers": numbers([logs["loss"], *state])}


def sampled(model, **how):
    """The same of the steps of sampling, but for what comes before and after them."""
    advance, found = generation._Batch.advance, collections.Counter()

    def watched(*arguments):
        waits.clear()
        result = advance(*arguments)
        found.update(waits)
        return result

    generation._Batch.advance = watched
    try:
        for _ in range(2):  # in the second it is tried to record a step, which of `There` cannot be
            made = model.generate(labels=[0, 1], steps=4, **how)
    finally:
        generation._Batch.advance = advance
    return {"waits": dict(found), "numbers": numbers([made])}


def fitted(steps, batches=False):
    """The same of `fit`, of arrays or of what reads ahead."""
    model, count = made(), 4 * steps
    data = images(count), np.zeros(count, "int32")
    if batches:
        data = (keras_dit.datasets.ImageBatches(*data, batch_size=4),)
    waits.clear()
    model.fit(*data, batch_size=None if batches else 4, verbose=0)
    return {"waits": dict(waits), "numbers": numbers(model.weights)}


def autoencoder(steps):
    """The same of an autoencoder's `fit`."""
    keras.utils.set_random_seed(0)
    form = {"groups": 2, "quant_conv": False, "mid_attention": False}
    trainer = codecs.AutoencoderTrainer(codecs.AutoencoderKL(1, 2, (4,), 1, **form))
    trainer.compile()
    trainer.fit(images(), batch_size=4, verbose=0)
    waits.clear()
    trainer.fit(images(4 * steps), batch_size=4, verbose=0)
    return {"waits": dict(waits), "numbers": numbers(trainer.weights)}


def main():
    model, x = made(), images()
    found = {
        "step": trained(model, x),
        "skipped": trained(model, x * np.nan),
        "another optimizer": trained(made(amsgrad=True), x),
        "asked": asked(),
        "paused": paused(),
        "ddim": sampled(model),
        "ddpm": sampled(model, solver=solvers.DDPM()),
        "plain": sampled(model, solver=solvers.DDPM(), jit_compile=False),
        "heun": sampled(model, solver=solvers.Heun()),
        "guided": sampled(model, guidance=guidance.ClassifierFree(2.0)),
        "fit, 20": fitted(20),
        "fit, 40": fitted(40),
        "batches, 20": fitted(20, batches=True),
        "batches, 40": fitted(40, batches=True),
    }
    for steps in (10, 20):
        found[f"autoencoder, {steps}"] = autoencoder(steps)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
