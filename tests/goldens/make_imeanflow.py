"""The loss of improved MeanFlow as its authors compute it, for tests/test_meanflow.py.

    PYTHONPATH=path/to/imeanflow python tests/goldens/make_imeanflow.py

Needs jax and flax, and imf.py of Lyy-iiis/imeanflow. Its transformer's place is taken by a function
of eleven random numbers, and what it draws is given, so that only the objective is compared.
"""

import pathlib
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

B, SHAPE, CLASSES = 8, (2, 2, 1), 3
draw = np.random.default_rng(0)


def normal(*shape):
    return draw.standard_normal(shape).astype("float32")


def uniform(low, high):
    return draw.uniform(low, high, (B, 1, 1, 1)).astype("float32")


WEIGHTS = normal(11)


def net(weights, x, t, h, omega, t_min, t_max, y):
    """A smooth function of all that the network is told; what is told nothing knows no guidance."""
    known = (y < CLASSES).astype("float32")
    told = weights[3] * (1 - 1 / omega) + weights[4] * t_min + weights[5] * t_max
    inner = weights[0] * x.sum(axis=(1, 2, 3)) + weights[1] * t + weights[2] * h + known * told
    column = (inner + weights[6 + y])[:, None, None, None]
    return jnp.tanh(weights[10] * x + column)


class Net(nn.Module):
    """What stands for imfDiT: u, and as v its value at h = 0 with the whole interval."""

    num_classes: int = CLASSES
    eval: bool = False

    @nn.compact
    def __call__(self, x, t, h, omega, t_min, t_max, y):
        weights = self.param("weights", lambda _: jnp.asarray(WEIGHTS))
        zero, one = jnp.zeros_like(t), jnp.ones_like(t)
        v = net(weights, x, t, zero, omega, zero, one, y)
        return net(weights, x, t, h, omega, t_min, t_max, y), v


models = types.ModuleType("models")
models.imfDiT = types.SimpleNamespace(imfDiT=Net, Net=Net)
sys.modules["models"] = models
import imf  # noqa: E402

x0, noise = normal(B, *SHAPE), normal(B, *SHAPE)
labels = draw.integers(0, CLASSES, B)
labels[1::4] = CLASSES  # told nothing
one, other = uniform(0.05, 0.95), uniform(0.05, 0.95)
omega, t_min, t_max = uniform(1, 4), uniform(0, 0.5), uniform(0.5, 1)
stays = (np.arange(B) % 2 == 1).reshape(B, 1, 1, 1)
t = np.where(stays, one, np.maximum(one, other))
r = np.where(stays, one, np.minimum(one, other))
t_min, t_max = np.where(stays, 0, t_min), np.where(stays, 1, t_max)


class Given(imf.iMeanFlow):
    """What is drawn is given."""

    def sample_tr(self, bz):
        return jnp.asarray(t), jnp.asarray(r), jnp.asarray(stays)

    def sample_cfg_scale(self, bz, s_max=7.0):
        return jnp.asarray(omega)

    def sample_cfg_interval(self, bz, fm_mask=None):
        return jnp.asarray(t_min), jnp.asarray(t_max)

    def cond_drop(self, v_t, v_g, labels):
        return labels, jnp.where((labels == CLASSES).reshape(B, 1, 1, 1), v_t, v_g)


model = Given(model_str="Net", num_classes=CLASSES, norm_p=0.0)
key = jax.random.key(0)
variables = {"params": {"net": {"weights": jnp.asarray(WEIGHTS)}}}


def loss_u(variables):
    """Its first term alone: the second is that of a second head."""
    normal_of_jax, jax.random.normal = jax.random.normal, lambda *_, **__: jnp.asarray(noise)
    try:
        _, parts = model.apply(
            variables, jnp.asarray(x0), jnp.asarray(labels), method=model.forward, rngs={"gen": key}
        )
    finally:
        jax.random.normal = normal_of_jax
    return parts["loss_u"]


loss, gradient = jax.value_and_grad(loss_u)(variables)
np.savez(
    pathlib.Path(__file__).parent / "imeanflow.npz",
    weights=WEIGHTS, x0=x0, noise=noise, labels=labels.astype("int32"),
    one=one.ravel(), other=other.ravel(), omega=omega.ravel(),
    t_min=t_min.ravel(), t_max=t_max.ravel(),
    loss=np.float32(loss), gradient=np.asarray(gradient["params"]["net"]["weights"]),
)  # fmt: skip
print("loss", loss)
