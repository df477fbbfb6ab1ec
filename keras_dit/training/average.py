"""The exponential moving average of a network's weights.

    a ← a + (1 − d_n) (w − a),   d_n = min(decay, n / (n + 10)) at update n = 0, 1, …

so that it starts as a copy of the weights and lengthens with the run.
"""

import keras
from keras import ops

from keras_dit import backend


class WeightAverage(keras.layers.Layer):
    """Keeps the average of another layer's weights, in float32 whatever their dtype.

    Keras's own average (`use_ema`) overwrites the weights at the end of `fit`, and under bfloat16
    it never moves. This one leaves them alone and is saved beside them.

    Args:
        decay: in [0, 1).
        weights: the variables to average.

    Raises:
        ValueError: if the decay is out of its range.
    """

    def __init__(self, decay, weights, **kwargs):
        super().__init__(autocast=False, trainable=False, **kwargs)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema must be None or in [0, 1). Received: ema={decay!r}")
        self.decay = decay
        self.updates = self._variable("updates", (), "int32")
        self.values = [
            self._variable(f"average_{i}", weight.shape, "float32")
            for i, weight in enumerate(weights)
        ]
        self.built = True
        self.restart(weights)

    def _variable(self, name, shape, dtype):
        return self.add_weight(
            shape=shape, initializer="zeros", dtype=dtype, trainable=False, name=name
        )

    @property
    def begun(self):
        """Whether it has been updated; not inside a compiled function."""
        return int(ops.convert_to_numpy(self.updates)) > 0

    def restart(self, weights):
        """Make the average a copy of the weights, which it is before the first update."""
        for average, weight in zip(self.values, weights, strict=True):
            # Through numpy: on JAX two variables that share a buffer cannot be donated.
            average.assign(ops.convert_to_numpy(ops.cast(weight, "float32")))

    def update(self, weights):
        """Move towards the weights; inside a training step."""
        n = ops.cast(self.updates, "float32")
        rate = 1.0 - ops.minimum(self.decay, n / (n + 10.0))
        backend.move_averages(self.values, weights, rate)
        self.updates.assign(self.updates + 1)
