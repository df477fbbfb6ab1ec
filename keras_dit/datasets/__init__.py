"""Data sets: digits, Fashion-MNIST, folders of images, array files; and batches for `fit`.

Images are channels-last float32 in [-1, 1], labels int32.
"""

from keras_dit.datasets.arrays import load_digits
from keras_dit.datasets.batches import ImageBatches
from keras_dit.datasets.folders import ImageFiles, image_folder
from keras_dit.datasets.idx import FASHION_MNIST_CLASSES, load_fashion_mnist
from keras_dit.datasets.parts import split
from keras_dit.datasets.sources import NAMES, load

__all__ = [
    "FASHION_MNIST_CLASSES",
    "NAMES",
    "ImageBatches",
    "ImageFiles",
    "image_folder",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "split",
]
