"""An autoencoder learns to give images back through a small latent.

    z = μ(x) + σ(x) ε,   L = 𝓁(x, decode(z)) + w · KL / (H W C),   ε ~ N(0, I)               (1)
    KL = ½ Σ (μ² + σ² − 1 − log σ²)                                                        (2)

𝓁 is a mean over pixels, so w is what the same numbers of the literature are, which weigh sums.
There is no perceptual and no adversarial term: fine detail of photographs comes out smooth.

Reference:
    Kingma, Welling: Auto-Encoding Variational Bayes (2013); with a small w: Rombach et al.,
    High-Resolution Image Synthesis with Latent Diffusion Models (2022), appendix G.
"""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dit import backend
from keras_dit.codecs.autoencoder import Autoencoder
from keras_dit.datasets import ImageBatches

__all__ = ["AutoencoderTrainer", "measured", "reconstructed"]


class AutoencoderTrainer(backend.BuiltModel):
    """Trains an autoencoder by `fit`.

    The logs have `reconstruction` and `kl` beside their sum, `loss`; `kl` is as it is weighed, for
    each number of an image.

    Args:
        network: an `AutoencoderKL`, which is trained in place.
        kl_weight: w in (1), 0 or more. Larger: latents nearer to a normal distribution and coarser
            images.
        reconstruction: 𝓁, a Keras loss whose result is a mean over pixels; None: the mean absolute
            error.

    Raises:
        ValueError: for a negative weight.

    Example:

    ```python
    trainer = keras_dit.codecs.AutoencoderTrainer(network)
    trainer.compile(keras.optimizers.AdamW(1e-3))
    trainer.fit(images, epochs=10, batch_size=64)
    codec = keras_dit.codecs.measured(network, images)
    ```
    """

    def __init__(
        self,
        network: keras.Model,
        kl_weight: float = 1e-6,
        reconstruction: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not (kl_weight >= 0 and math.isfinite(kl_weight)):
            raise ValueError(f"kl_weight must be finite, 0 or more. Received: {kl_weight}")
        self.network, self.kl_weight = network, kl_weight
        self.reconstruction = keras.losses.get(reconstruction or keras.losses.MeanAbsoluteError())
        self.seed = backend.SeedGenerator()
        self.parts = {name: keras.metrics.Mean(name) for name in ("reconstruction", "kl")}
        self.built = True

    def compile(self, optimizer: Any = None, **kwargs: Any) -> None:
        """Set the optimizer. The loss is (1).

        Args:
            optimizer: a Keras optimizer or its name; None: AdamW at learning rate 1e-3 without
                weight decay.
            **kwargs: the other arguments of `keras.Model.compile`, but for the loss and metrics.

        Raises:
            ValueError: for a loss or metrics, or in one of several processes of torch, whose
                weights would drift apart.
        """
        if backend.replicas() > 1:
            raise ValueError(
                "on torch an autoencoder is trained by one process. "
                f"Received: {backend.replicas()} processes"
            )
        given = [name for name in ("loss", "metrics", "weighted_metrics") if kwargs.get(name)]
        if given:
            raise ValueError(
                "the loss is AutoencoderTrainer(reconstruction=...), its parts are the metrics. "
                f"Received: {given[0]}={kwargs[given[0]]!r}"
            )
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0)
        super().compile(optimizer=optimizer, **kwargs)

    @functools.wraps(keras.Model.fit)
    def fit(self, *arguments, **settings):
        with backend.without_waits():
            return super().fit(*arguments, **settings)

    def call(self, images: Any, training: bool | None = None) -> tuple[Any, Any, Any]:
        """Images as they come back, with the mean and log-variance of their latents.

        Args:
            images: (B, H, W, C) in [-1, 1].
            training: whether latents are drawn; else they are the mean.
        """
        mean, log_variance = self.network.encode(images)
        latents = mean
        if training:
            count, *rest = ops.shape(mean)
            noise = backend.drawn(
                lambda n: keras.random.normal((n, *rest), dtype=mean.dtype, seed=self.seed), count
            )
            latents = mean + ops.exp(0.5 * log_variance) * noise  # (1)
        return self.network.decode(latents), mean, log_variance

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """(1) of a batch; y, which may be labels, is not looked at."""
        images, mean, log_variance = (ops.cast(part, "float32") for part in y_pred)
        # Keras adds up the gradients of a strategy's replicas: by their number it divides a loss of
        # its own, and multiplies what it logs.
        replicas = backend.replicas()
        reconstruction = self.reconstruction(ops.cast(x, "float32"), images) * replicas
        divergence = 0.5 * (mean**2 + ops.exp(log_variance) - 1.0 - log_variance)
        shrunk = self.network.latent_channels / self.network.factor**2 / self.network.in_channels
        kl = self.kl_weight * shrunk * ops.mean(divergence)  # (2)
        count = ops.cast(ops.shape(x)[0], "float32")
        self.parts["reconstruction"].update_state(reconstruction, sample_weight=count)
        self.parts["kl"].update_state(kl, sample_weight=count)
        return (reconstruction + kl) / replicas


def measured(
    network: keras.Model, data: Any, count: int = 4096, batch_size: int = 32
) -> Autoencoder:
    """A codec whose latents have mean 0 and deviation 1 in each channel, by what is measured.

    Args:
        network: an `AutoencoderKL`.
        data: images (N, H, W, C) in [-1, 1], or `ImageBatches`.
        count: images that are looked at, at most.
        batch_size: images at once, of an array.

    Returns:
        An `Autoencoder` with `scale` and `shift`.

    Raises:
        ValueError: if there are no images.
    """
    if not isinstance(data, ImageBatches):
        data = ImageBatches(data, batch_size=min(batch_size, len(data)), drop_remainder=False)
    raw, numbers = Autoencoder(network), 0
    total = square = np.zeros(network.latent_channels)
    for index in range(min(len(data), -(-count // data.batch_size))):
        posterior = raw.posteriors(data.batch(0, index)[0]).astype("float64")
        mean, log_variance = np.split(posterior, 2, axis=-1)
        total = total + mean.sum((0, 1, 2))
        square = square + (mean**2 + np.exp(log_variance)).sum((0, 1, 2))
        numbers += math.prod(mean.shape[:3])
    shift = total / numbers
    deviation = np.sqrt(np.maximum(square / numbers - shift**2, 0.0))
    return Autoencoder(network, scale=tuple(1.0 / deviation), shift=tuple(shift))


def reconstructed(codec: Autoencoder, images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) in [-1, 1] as they come back from the means of their posteriors."""
    return codec.decode(ops.convert_to_numpy(codec.encode(codec.posteriors(images))))
