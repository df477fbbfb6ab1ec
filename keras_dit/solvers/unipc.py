"""UniPC: a predictor and a corrector from the same estimates."""

from dataclasses import dataclass

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

    Reference:
        Zhao et al., UniPC: A Unified Predictor-Corrector Framework (2023), algorithms 1 and 2.
    """

    order: int = 2

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3. Received: order={self.order!r}")

    def step(self, denoise, x, here, there, state, noise):
        x0 = denoise(x, here).x0
        start, history = state or (x, ())
        if history:
            x = flow.correct(start, x0, here, history)
        history = ((x0, here), *history)[: self.order]
        if len(history) == 2:  # what the paper has in place of the integral of a line
            last = history[1]
            return flow.follow(x, flow.ahead(x0, here, there, last), here, there), (x, history)
        return flow.integrate(x, here, there, history), (x, history)
