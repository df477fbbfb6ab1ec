"""Under mixed precision attention takes its backend's flash kernel, by the kernel's own name.

JAX lowers a program for a GPU that is not there, and torch's CPU has a flash kernel of its own.
TensorFlow has none.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dit
from keras_dit import backend, layers
from keras_dit.backend import BACKEND
from keras_dit.backend.kernels import choice, fused

if BACKEND == "jax":
    import jax

    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
elif BACKEND == "torch":
    import torch

FORWARD, BACKWARD = "@__cudnn$fmhaSoftmax(", "@__cudnn$fmhaSoftmaxBackward("
DEPTH = 2


def network(dtype, **parts):
    attention = layers.SelfAttention(2, **parts)
    block = layers.AdaLNBlock(2, attention=attention)
    return keras_dit.DiTModel((8, 8, 1), 2, 32, DEPTH, 2, num_classes=3, block=block, dtype=dtype)


def batch():
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype("float32")
    return ops.convert_to_tensor(x), ops.ones(2), ops.ones(2, "int32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_norms_and_turned_positions_leave_attention_its_16_bits(monkeypatch, dtype):
    attention, seen = backend.attention, []

    def watched(*arguments):
        seen.extend(keras.backend.standardize_dtype(x.dtype) for x in arguments[:3])
        return attention(*arguments)

    monkeypatch.setattr(backend, "attention", watched)
    parts = {"qk_norm": layers.RMSNorm(), "positions": layers.Rotary()}
    network(f"mixed_{dtype}", **parts)(*batch())
    assert seen == [dtype] * 3 * DEPTH


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What asks the hardware is told of one; what is lowered and for what is JAX's own."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "_on_cpu", lambda: False)
    for dtype in ("bfloat16", "float16"):  # which this processor would be asked to try
        monkeypatch.setitem(choice.REFUSED, (fused.attention, np.dtype(dtype)), None)


def for_cuda(function, *arguments):
    traced = jax.jit(function).trace(*arguments)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.skipif(BACKEND != "jax", reason="a program of JAX")
@pytest.mark.parametrize(
    "dtype, count", [("mixed_bfloat16", DEPTH), ("mixed_float16", DEPTH), ("float32", 0)]
)
def test_jax_lowers_cudnns_kernel_for_each_block_and_its_gradient(as_on_a_gpu, dtype, count):
    model, inputs = network(dtype), batch()

    def loss(values):
        output, _ = model.stateless_call(values, others, *inputs)
        return ops.sum(ops.square(output))

    values = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    assert for_cuda(loss, values).count(FORWARD) == count
    text = for_cuda(jax.grad(loss), values)
    assert text.count(FORWARD) == text.count(BACKWARD) == count


def kernels(function):
    """The kinds of torch's attention that ran."""
    with torch.profiler.profile() as profile:
        function()
    names = [event.name for event in profile.events()]
    return {name for name in names if name.startswith("aten::_scaled_dot_product")}


@pytest.mark.skipif(BACKEND != "torch", reason="a profile of torch")
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float32"])
def test_torch_runs_its_flash_kernel_in_training_and_sampling(dtype):
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    diffusion = keras_dit.Diffusion(network(dtype))
    diffusion.compile(keras.optimizers.SGD(1e-3))
    x, _, y = map(ops.convert_to_numpy, batch())
    assert kernels(lambda: diffusion.train_on_batch(x, y)) == {flash, f"{flash}_backward"}
    for steps in (2, 5):  # plain, then recorded
        assert kernels(lambda n=steps: diffusion.generate(labels=[1], steps=n)) == {flash}
