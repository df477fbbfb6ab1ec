"""Which weights of a DiT lie on which device, where one device is too small for them all.

Fully sharded: each large weight is cut along an axis over the devices that share the batch. XLA
gathers one when a step needs it, and scatters its gradient. Tensor parallel, beside it: a device
has some heads and some units of the MLP of a block, and two sums a block put the parts together.

Reference:
    Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models (2020);
    Shoeybi et al., Megatron-LM (2019), section 3.
"""

import keras

__all__ = ["layout_map"]


def layout_map(
    device_mesh: "keras.distribution.DeviceMesh", batch: str = "batch", model: str | None = None
) -> "keras.distribution.LayoutMap":
    """Where the weights of a `DiTModel`, their average and the optimizer's variables lie; on JAX.

    What is small, such as a bias, is on every device whole.

    Args:
        device_mesh: a `keras.distribution.DeviceMesh`.
        batch: the axis of the mesh that the batch is cut over, and each large weight with it. It
            has to divide the hidden size and 256, the number of frequencies of a time.
        model: an axis over whose devices heads and units of the MLP are divided; None: they are
            not. It has to divide three times the hidden size, and the MLP's.

    Returns:
        For `keras.distribution.ModelParallel`.

    Example:

    ```python
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout_map(mesh), batch_dim_name="batch"))
    network = keras_dit.DiTModel.from_preset("dit_xl_2", input_shape=(32, 32, 4), num_classes=1000)
    ```
    """
    layouts = keras.distribution.LayoutMap(device_mesh)
    into, out_of = (batch, model), (model, batch)
    # A name of the average has slashes as that of its weight; the optimizer's have underscores.
    for name, axes in {
        "attention.qkv.kernel": into,
        "attention.projection.kernel": out_of,
        "mlp.mlp_in.kernel": into,
        "mlp.mlp_out.kernel": out_of,
        "modulation.kernel": (batch, None),
        "time.mlp_(in|out).kernel": (batch, None),
        "final.projection.kernel": (batch, None),
        "label.table": (None, batch),
    }.items():
        layouts[f".*{name}.*"] = axes
    return layouts
