"""Make gaussian_diffusion.npz: the published diffusion process, without a network.

The foreign code is the `diffusion` package of facebookresearch/DiT at commit ed81ce2
(non-commercial licence: imported from its own folder, never copied here), with torch 2.13.0 on
CPU. Command:

    python tests/goldens/make_gaussian_diffusion.py DIT_FOLDER

DIT_FOLDER is a checkout of that commit. Its x is DESIGN.md's x_t (variance preserving, alpha =
sqrt(alphas_cumprod), sigma = sqrt(1 - alphas_cumprod)), its step k is t = (k + 1) / 1000. In place
of a network stands a function that makes the noise belonging to a slightly random clean image, so
that all numbers stay of size 1; what it returned at each call is stored. What the file holds:
README.md here.
"""

import pathlib
import sys
import unittest.mock

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 3, 4, 4)
TABLES = ("alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
          "posterior_mean_coef1", "posterior_mean_coef2")  # fmt: skip
# name: (timestep_respacing, clip_denoised, eta or None for p_sample, options of the process)
LOOPS = {
    "ddpm10_learned": ("10", False, None, {"learn_sigma": True}),
    "ddpm10_learned_clip": ("10", True, None, {"learn_sigma": True}),
    "ddpm10_small": ("10", False, None, {"learn_sigma": False, "sigma_small": True}),
    "ddpm10_large": ("10", False, None, {"learn_sigma": False, "sigma_small": False}),
    "ddim10_eta0": ("ddim10", False, 0.0, {"learn_sigma": False}),
    "ddim10_eta0_clip": ("ddim10", True, 0.0, {"learn_sigma": False}),
    "ddim10_eta07": ("ddim10", False, 0.7, {"learn_sigma": False}),
}


def normal(rng, shape=SHAPE):
    """Return float32 normal noise as a tensor."""
    return torch.from_numpy(rng.standard_normal(shape).astype("float32"))


class Recorder:
    """Stands for the network: x, k -> noise of (x0 + 0.6 random), and what it was asked."""

    def __init__(self, alphas_cumprod, learn_sigma, rng):
        """Draw the clean image."""
        self.alphas_cumprod, self.learn_sigma, self.rng = alphas_cumprod, learn_sigma, rng
        self.x0 = 0.6 * normal(rng)
        self.timesteps, self.outputs = [], []

    def __call__(self, x, k):
        """Return the noise, followed by the variance channels in about [-1, 1] if learned."""
        alpha_bar = float(self.alphas_cumprod[int(k[0])])
        x0 = self.x0 + 0.6 * normal(self.rng)
        output = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        if self.learn_sigma:
            output = torch.cat([output, 0.6 * normal(self.rng)], dim=1)
        self.timesteps.append(int(k[0]))
        self.outputs.append(output)
        return output


def run_loop(create_diffusion, respacing, clip, eta, options, rng):
    """Run a whole sampling loop on stored noise and record every step."""
    process = create_diffusion(respacing, **options)
    full_table = create_diffusion("").alphas_cumprod
    model = Recorder(full_table, options["learn_sigma"], rng)
    start = normal(rng)
    noise = [normal(rng) for _ in range(process.num_timesteps)]
    settings = {"noise": start, "clip_denoised": clip, "device": "cpu"}
    with unittest.mock.patch("torch.randn_like", side_effect=noise):
        if eta is None:
            steps = list(process.p_sample_loop_progressive(model, SHAPE, **settings))
        else:
            steps = list(process.ddim_sample_loop_progressive(model, SHAPE, eta=eta, **settings))
    return {
        "x_T": start,
        "timesteps": torch.tensor(model.timesteps),
        "outputs": torch.stack(model.outputs),
        "noise": torch.stack(noise),
        "x": torch.stack([step["sample"] for step in steps]),
    }


def run_training(create_diffusion, rng):
    """Return q_sample, the losses of the learned-range process and their gradient."""
    x0 = torch.from_numpy(rng.uniform(-1, 1, (7, 3, 4, 4)).astype("float32"))
    x0[:, :, 0, 0], x0[:, :, 0, 1] = -1.0, 1.0  # the open ends of the decoder's likelihood
    noise = normal(rng, x0.shape)
    k = torch.tensor([0, 0, 1, 250, 499, 998, 999])
    output = torch.cat([noise + 0.1 * normal(rng, x0.shape), 0.6 * normal(rng, x0.shape)], dim=1)
    output.requires_grad_()
    arrays = {"x0": x0, "noise": noise, "timesteps": k, "output": output.detach()}
    for name, schedule in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        process = create_diffusion("", noise_schedule=schedule)
        arrays[f"x_t_{name}"] = process.q_sample(x0, k, noise=noise)
    process = create_diffusion("")
    losses = process.training_losses(lambda x, t: output, x0, k, noise=noise)
    (gradient,) = torch.autograd.grad(losses["loss"].sum(), output)
    arrays |= {key: losses[key].detach() for key in ("loss", "mse", "vb")}
    return arrays | {"grad_output": gradient}


def main(folder):
    """Write the tables, the loops and the training terms."""
    sys.path.insert(0, folder)
    from diffusion import create_diffusion

    arrays = {}
    for name, schedule in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        process = create_diffusion("", noise_schedule=schedule)
        arrays |= {f"{name}/{table}": getattr(process, table) for table in TABLES}
    for seed, (name, settings) in enumerate(LOOPS.items()):
        loop = run_loop(create_diffusion, *settings, np.random.default_rng(seed))
        arrays |= {f"{name}/{key}": value.numpy() for key, value in loop.items()}
        print(name, loop["timesteps"].tolist(), "x std", loop["x"].std(dim=(1, 2, 3, 4)).tolist())
    training = run_training(create_diffusion, np.random.default_rng(100))
    arrays |= {f"training/{key}": value.numpy() for key, value in training.items()}
    print({key: training[key] for key in ("loss", "mse", "vb")})
    np.savez_compressed(HERE / "gaussian_diffusion.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
