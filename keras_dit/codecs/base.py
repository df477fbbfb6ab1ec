"""Pictures <-> what the network sees.

A codec's `encode` runs inside the training step, on tensors; its `decode` on the host.
"""

import math

from keras_dit.serialization import Configurable


class Codec(Configurable):
    """Pictures <-> samples of about unit size. Subclasses are frozen dataclasses."""

    example = "codecs.Pixels()"
    low, high = -math.inf, math.inf  # the range in which pictures are expected

    def encode(self, images):
        """Tensor of pictures (B, H, W, C), any number type -> float32 samples x0."""
        raise NotImplementedError

    def decode(self, samples):
        """numpy samples x0 -> numpy float32 pictures."""
        raise NotImplementedError
