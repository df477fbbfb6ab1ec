"""Make gaussian_terms.npz: the published distributions and the bound, without a network.

The foreign code is the `diffusion` package of facebookresearch/DiT at commit ed81ce2
(non-commercial licence: imported from its own folder, never copied here), with torch 2.13.0 on
CPU. Command:

    python tests/goldens/make_gaussian_terms.py DIT_FOLDER

In place of a network stands a function that makes the noise belonging to a slightly random clean
image. What the file holds: README.md here.
"""

import pathlib
import sys
import unittest.mock

import numpy as np
import torch
from make_gaussian_diffusion import SHAPE, Recorder, normal

HERE = pathlib.Path(__file__).parent
VARIANCES = {
    "learned": {"learn_sigma": True},
    "small": {"learn_sigma": False, "sigma_small": True},
    "large": {"learn_sigma": False, "sigma_small": False},
}


class Closer(Recorder):
    """A Recorder as sure as a trained network: its x0 is off by no more than the noise is."""

    def __call__(self, x, k):
        """Return the noise of (x0 + 0.6 sigma random), and variance channels if learned."""
        alpha_bar = float(self.alphas_cumprod[int(k[0])])
        output = super().__call__(x, k)
        away = normal(self.rng) * 0.6 * alpha_bar**0.5  # of the noise
        exact = (x - alpha_bar**0.5 * self.x0) / (1 - alpha_bar) ** 0.5
        output[:, :3] = exact - away
        return output


def run_reverse(create_diffusion, rng):
    """Return p_mean_variance of every variance, clipped or not, at seven steps."""
    x0 = torch.from_numpy(rng.uniform(-1, 1, (7, 3, 4, 4)).astype("float32"))
    k = torch.tensor([0, 1, 2, 250, 499, 998, 999])
    process = create_diffusion("")
    x_t = process.q_sample(x0, k, noise=normal(rng, x0.shape))
    alpha_bar = torch.from_numpy(process.alphas_cumprod)[k].float()[:, None, None, None]
    noise = (x_t - alpha_bar.sqrt() * (x0 + 0.3 * normal(rng, x0.shape))) / (1 - alpha_bar).sqrt()
    output = torch.cat([noise, 0.6 * normal(rng, x0.shape)], dim=1)
    arrays = {"x0": x0, "x_t": x_t, "timesteps": k, "output": output}
    mean, _, log_variance = process.q_posterior_mean_variance(x0, x_t, k)
    arrays |= {"posterior_mean": mean, "posterior_log_variance": log_variance}
    for name, options in VARIANCES.items():
        process = create_diffusion("", **options)
        given = output if name == "learned" else noise
        for suffix, clip in (("", False), ("_clip", True)):
            found = process.p_mean_variance(lambda x, t, g=given: g, x_t, k, clip_denoised=clip)
            arrays[f"{name}{suffix}/mean"] = found["mean"]
            arrays[f"{name}{suffix}/log_variance"] = found["log_variance"]
    return arrays


def run_terms(rng):
    """Return the divergence of normals and the likelihood of 8-bit values."""
    from diffusion.diffusion_utils import discretized_gaussian_log_likelihood, normal_kl

    mean, other = normal(rng, (64,)), normal(rng, (64,))
    log_variance, other_log_variance = normal(rng, (64,)), normal(rng, (64,))
    x = torch.from_numpy(rng.integers(0, 256, 64) / 127.5 - 1).float()
    x[:4] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    scales = torch.linspace(-5, 1, 64)
    return {
        "mean1": mean, "log_variance1": log_variance, "mean2": other,
        "log_variance2": other_log_variance, "x": x, "log_scales": scales,
        "kl": normal_kl(mean, log_variance, other, other_log_variance),
        "likelihood": discretized_gaussian_log_likelihood(
            x, means=x + 0.05 * mean, log_scales=scales),
        "means": x + 0.05 * mean,
    }  # fmt: skip


def run_bound(create_diffusion, options, clip, rng):
    """Return the whole bound of a chain of ten steps, on stored noise, its last step first."""
    process = create_diffusion("10", **options)
    model = Closer(create_diffusion("").alphas_cumprod, options["learn_sigma"], rng)
    x0 = torch.from_numpy(rng.integers(0, 256, SHAPE) / 127.5 - 1).float()
    model.x0 = x0
    noise = [normal(rng) for _ in range(process.num_timesteps)]
    with unittest.mock.patch("torch.randn_like", side_effect=noise):
        found = process.calc_bpd_loop(model, x0, clip_denoised=clip)
    return {"x0": x0, "noise": torch.stack(noise), "timesteps": torch.tensor(model.timesteps),
            "outputs": torch.stack(model.outputs), **found}  # fmt: skip


def main(folder):
    """Write the distributions, the terms and the bounds."""
    sys.path.insert(0, folder)
    from diffusion import create_diffusion

    arrays = {f"reverse/{k}": v for k, v in run_reverse(
        create_diffusion, np.random.default_rng(200)).items()}  # fmt: skip
    arrays |= {
        f"terms/{key}": value for key, value in run_terms(np.random.default_rng(201)).items()
    }
    for seed, (name, options) in enumerate(VARIANCES.items()):
        rng = np.random.default_rng(202 + seed)
        bound = run_bound(create_diffusion, options, name == "small", rng)
        arrays |= {f"bound_{name}/{key}": value for key, value in bound.items()}
        print(name, bound["total_bpd"].tolist(), bound["timesteps"].tolist())
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez_compressed(HERE / "gaussian_terms.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
