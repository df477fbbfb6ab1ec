"""UniPC: a predictor and a corrector from the same estimates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_dit.schedules import Rates
from keras_dit.serialization import register
from keras_dit.solvers import probability_flow as flow
from keras_dit.solvers.base import Solver


@register
@dataclass(frozen=True)
class UniPC(Solver):
    """Predictor and corrector from the same estimates, one evaluation for both.

    An estimate at the predicted x first corrects that x, by (1) along a polynomial that it is
    itself on, and then predicts the next. This is the variant B₂(h) = 1 − e^{−h}.

    Args:
        order: of the predictor, 1, 2 or 3; the corrector's is one higher.

    Example:

    >>> def denoise(x, rates):  # exact for data from N(0, 1/4): a run ends at half its noise
    ...     return keras_dit.Denoised(x * rates.alpha / (rates.alpha**2 + 4 * rates.sigma**2))
    >>> noise, flow = np.ones((1, 2), "float32"), keras_dit.schedules.RectifiedFlow()
    >>> x0 = keras_dit.sampler.sample(denoise, noise, flow, steps=20, solver=UniPC())
    >>> bool(abs(x0[0, 0] - 0.5) < 0.01)
    True

    Reference:
        Zhao et al., UniPC: A Unified Predictor-Corrector Framework (2023), algorithms 1 and 2.
    """

    order: int = 2

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3. Received: order={self.order!r}")

    def init(self, x: Any) -> Any:
        return flow.Step.none(x, self.order)

    def step(
        self, denoise: Callable, x: Any, here: Rates, there: Rates, state: Any, noise: Any
    ) -> tuple:
        x0 = denoise(x, here).x0
        x = flow.correct(x, x0, here, state, state.history.count > 0.0)
        history = state.history.add(x0, here)
        return flow.predict(x, here, there, history), flow.Step(x, here, history)
