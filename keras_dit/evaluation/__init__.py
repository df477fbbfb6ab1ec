"""How good generated images are."""

from keras_dit.evaluation.scores import (
    frechet_distance,
    frechet_distance_from_moments,
    label_agreement,
)

__all__ = ["frechet_distance", "frechet_distance_from_moments", "label_agreement"]
