"""Data sets: digits, Fashion-MNIST, folders of images, array files, cached latents; and batches.

Images are channels-last float32 in [-1, 1], labels int32.
"""

from keras_dit.datasets.arrays import load_digits
from keras_dit.datasets.batches import ImageBatches
from keras_dit.datasets.captioned import Scene, captioned_digits
from keras_dit.datasets.folders import ImageFiles, image_folder
from keras_dit.datasets.idx import FASHION_MNIST_CLASSES, load_fashion_mnist
from keras_dit.datasets.latents import (
    LatentFacts,
    LatentFiles,
    SizedLatentFiles,
    cached_latents,
    latent_folders,
)
from keras_dit.datasets.parts import split
from keras_dit.datasets.sources import NAMES, load
from keras_dit.datasets.writing import LatentWriter

__all__ = [
    "FASHION_MNIST_CLASSES",
    "NAMES",
    "ImageBatches",
    "ImageFiles",
    "LatentFacts",
    "LatentFiles",
    "LatentWriter",
    "Scene",
    "SizedLatentFiles",
    "cached_latents",
    "captioned_digits",
    "image_folder",
    "latent_folders",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "split",
]
