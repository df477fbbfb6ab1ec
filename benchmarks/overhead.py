"""What it costs two processes to keep together: processor time of a step beside one alone.

    python benchmarks/overhead.py dit_s_4 --batch-size 8
    python tests/two_processes.py benchmarks/overhead.py dit_s_4 --batch-size 8
    torchrun --standalone --nproc-per-node 2 benchmarks/overhead.py dit_s_4 --batch-size 8

The first is a process alone, the others (of JAX and TensorFlow, and of torch) are two that share a
batch twice as large. Each prints the processor time of its steps, the median, so that what else the
machine does counts little, and what it waits for does not count.
"""

import argparse
import contextlib
import os
import statistics
import time

import keras
import numpy as np

import keras_dit
from keras_dit import backend

WARM = 2  # steps that are not counted: they compile


class Steps(keras.callbacks.Callback):
    """The processor time of each step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # which waits for the step
        self.times.append(time.process_time())


def together():
    """Join the other process, if there is one; gives what the model is made in, and how many."""
    if "RANK" in os.environ:
        import torch

        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo")
        return contextlib.nullcontext(), 2
    if "TF_CONFIG" in os.environ:
        import tensorflow as tf

        return tf.distribute.MultiWorkerMirroredStrategy().scope(), 2
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        return keras.distribution.DataParallel(auto_shard_dataset=False).scope(), 2
    return contextlib.nullcontext(), 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--batch-size", type=int, default=8, help="of each process")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    scope, processes = together()
    size = processes * arguments.batch_size
    images = np.random.default_rng(0).uniform(-1, 1, (size, 32, 32, 3)).astype("float32")
    data = keras_dit.datasets.ImageBatches(images, np.zeros(size, int), batch_size=size)
    steps = Steps()
    with scope:
        network = keras_dit.DiTModel.from_preset(
            arguments.preset, input_shape=(32, 32, 3), num_classes=10
        )
        model = keras_dit.Diffusion(network)
        model.compile(jit_compile=backend.BACKEND == "jax")
    model.fit(data, epochs=WARM + arguments.steps, verbose=0, callbacks=[steps])
    median = statistics.median(np.diff(steps.times[WARM - 1 :]))
    what = f"{backend.BACKEND}, {arguments.preset}, {arguments.batch_size} images a process"
    size = f"gradients of {4e-6 * network.count_params():.0f} MB"
    print(f"{what}, {size}: {1000 * median:.0f} ms of processor time a step of {processes}")


if __name__ == "__main__":
    main()
