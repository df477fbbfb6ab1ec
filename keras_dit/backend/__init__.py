"""The only place that knows jax, torch and tensorflow apart.

Everything else of the package is `keras.ops`. What differs between backends, and therefore
stands here: which one is used, how a function is compiled and a step of training made, the form of
an operation that each runs best, and facts about memory and devices.
"""

from keras_dit.backend.selection import BACKEND  # isort: skip  # it settles the backend for all
from keras_dit.backend.compiling import (
    compile_inference,
    compiles,
    jit_compile_convolutions,
    jit_compile_training,
)
from keras_dit.backend.derivatives import forward_derivative
from keras_dit.backend.devices import (
    device_name,
    free_memory,
    is_out_of_memory,
    peak_memory,
    reuse_freed_memory,
    step_memory,
    synchronize,
)
from keras_dit.backend.exporting import EXPORT_FORMAT, check_export, open_batch
from keras_dit.backend.host import Pace, SeedGenerator, without_waits
from keras_dit.backend.keeping import cache_folder, keep_compiled
from keras_dit.backend.keras_layers import (
    call_layer,
    dropping_weights,
    layers_of,
    saved_policy,
    without_memory,
)
from keras_dit.backend.kernels import (
    attention,
    convolution,
    doubled,
    group_norm,
    layer_norm,
    linear,
    linear_gelu,
    modulated_layer_norm,
    multiply_add,
    plain_kernels,
    product,
    rms_norm,
)
from keras_dit.backend.launching import launched, model_scope, on_devices
from keras_dit.backend.live import LiveValues
from keras_dit.backend.partition import combine, partition
from keras_dit.backend.parts import in_parts
from keras_dit.backend.recording import GradientPrograms
from keras_dit.backend.replicas import (
    agreed,
    alone,
    anywhere,
    barrier,
    can_decide,
    drawn,
    leads,
    mean,
    processes,
    reads_together,
    replicas,
    share,
    spread,
    whole,
)
from keras_dit.backend.shapes import of_each_shape, with_open_sides
from keras_dit.backend.sharing import (
    ShareDone,
    ShareError,
    first,
    helping,
    helps,
    members,
    shared,
    team,
)
from keras_dit.backend.tensorflow_data import mapped_on_host
from keras_dit.backend.training import (
    BuiltModel,
    applies_where,
    apply_gradients,
    branch,
    build_optimizer,
    fingerprints,
    gradients,
    keras_step,
    move_averages,
    norm,
    remat,
    without_gradient,
)
from keras_dit.backend.values import compute_values, holding, laid_out, tensor_beside

__all__ = [
    "BACKEND",
    "EXPORT_FORMAT",
    "BuiltModel",
    "GradientPrograms",
    "LiveValues",
    "Pace",
    "SeedGenerator",
    "ShareDone",
    "ShareError",
    "agreed",
    "alone",
    "anywhere",
    "applies_where",
    "apply_gradients",
    "attention",
    "barrier",
    "branch",
    "build_optimizer",
    "cache_folder",
    "call_layer",
    "can_decide",
    "check_export",
    "combine",
    "compile_inference",
    "compiles",
    "compute_values",
    "convolution",
    "device_name",
    "doubled",
    "drawn",
    "dropping_weights",
    "fingerprints",
    "first",
    "forward_derivative",
    "free_memory",
    "gradients",
    "group_norm",
    "helping",
    "helps",
    "holding",
    "in_parts",
    "is_out_of_memory",
    "jit_compile_convolutions",
    "jit_compile_training",
    "keep_compiled",
    "keras_step",
    "laid_out",
    "launched",
    "layer_norm",
    "layers_of",
    "leads",
    "linear",
    "linear_gelu",
    "mapped_on_host",
    "mean",
    "members",
    "model_scope",
    "modulated_layer_norm",
    "move_averages",
    "multiply_add",
    "norm",
    "of_each_shape",
    "on_devices",
    "open_batch",
    "partition",
    "peak_memory",
    "plain_kernels",
    "processes",
    "product",
    "reads_together",
    "remat",
    "replicas",
    "reuse_freed_memory",
    "rms_norm",
    "saved_policy",
    "share",
    "shared",
    "spread",
    "step_memory",
    "synchronize",
    "team",
    "tensor_beside",
    "whole",
    "with_open_sides",
    "without_gradient",
    "without_memory",
    "without_waits",
]
