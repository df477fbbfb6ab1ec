"""Make diffusers_schedulers.npz: schedules and solvers of diffusers, without a network.

The foreign code is diffusers 0.42.1 (Apache 2.0) with torch 2.13.0 on CPU. Command:

    python tests/goldens/make_diffusers.py

In place of a network stands a function that makes the output belonging to a slightly random clean
image; what it returned at each call is stored. With DESIGN.md's x_t = alpha x0 + sigma noise, the
schedulers' own samples (`x_T`, `x`) are

    DDIM              x_t itself; alpha = sqrt(alphas_cumprod), k is t = (k + 1) / 1000
    Euler, Heun       x_t / alpha = x0 + (sigma / alpha) noise: their `sigmas` are sigma / alpha,
                      and the network's input (`inputs`, after scale_model_input) is x_t
    FlowMatchEuler    x_t with alpha = 1 - sigma: its `sigmas` are our t, its `timesteps` are
                      1000 t (no minus one), and the output is the velocity noise - x0

All of them hold alphas_cumprod as a float32 cumulative product. What the file holds: README.md.
"""

import pathlib

import diffusers
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 2, 3, 4)
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
TABLES = {
    "linear": LINEAR,
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
}


def network_output(kind, x, alpha, sigma, x0):
    """Return what a network of this kind gives at x = alpha x0 + sigma noise."""
    noise = (x - alpha * x0) / sigma
    return {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": alpha * noise - sigma * x0,
        "flow": noise - x0,
    }[kind]


def run(scheduler, kind, rates, seed):
    """Run a scheduler to its end; rates(i) are the alpha and sigma of its sample at call i."""
    rng = np.random.default_rng(seed)

    def draw():
        return torch.from_numpy(rng.standard_normal(SHAPE).astype("float32"))

    centre = 0.6 * draw()
    x = start = draw() * getattr(scheduler, "init_noise_sigma", 1.0)
    scaled = hasattr(scheduler, "scale_model_input") and hasattr(scheduler, "sigmas")
    record = {"outputs": [], "x": []} | ({"inputs": []} if scaled else {})
    for i, timestep in enumerate(scheduler.timesteps):
        if scaled:  # otherwise the network sees the sample itself
            record["inputs"].append(scheduler.scale_model_input(x, timestep))
        output = network_output(kind, x, *rates(i), centre + 0.6 * draw())
        x = scheduler.step(output, timestep, x).prev_sample
        record["outputs"].append(output)
        record["x"].append(x)
    arrays = {key: torch.stack(value) for key, value in record.items()}
    arrays |= {"x_T": start, "timesteps": scheduler.timesteps}
    if hasattr(scheduler, "sigmas"):
        arrays["sigmas"] = scheduler.sigmas
    return {key: value.numpy() for key, value in arrays.items()}


def run_ddim(kind, seed):
    """20 trailing steps, eta 0, no clipping; the last step goes to alphas_cumprod = 1."""
    scheduler = diffusers.DDIMScheduler(
        **LINEAR, timestep_spacing="trailing", prediction_type=kind, clip_sample=False
    )
    scheduler.set_timesteps(20)
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps]
    arrays = run(scheduler, kind, lambda i: (alpha_bar[i].sqrt(), (1 - alpha_bar[i]).sqrt()), seed)
    return arrays | {"alphas_cumprod": alpha_bar.numpy()}


def run_k_diffusion(scheduler_class, steps, seed):
    """Euler (one call a step) or Heun (two calls a step but the last, which is Euler's)."""
    scheduler = scheduler_class(**LINEAR, timestep_spacing="trailing", prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    # At call i Heun's sample is at sigmas[i] too: its list has every inner sigma twice.
    return run(scheduler, "epsilon", lambda i: (1.0, scheduler.sigmas[i]), seed)


def run_flow(shift, sigmas, seed):
    """10 Euler steps along the velocity; the shift is applied to the sigmas handed in."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10, sigmas=sigmas)
    return run(scheduler, "flow", lambda i: (1 - scheduler.sigmas[i], scheduler.sigmas[i]), seed)


def main():
    """Write the tables and the runs."""
    arrays = {}
    for name, options in TABLES.items():
        table = diffusers.DDPMScheduler(**options).alphas_cumprod
        arrays[f"ddpm/{name}/alphas_cumprod"] = table.numpy()
    runs = {
        "ddim_epsilon": run_ddim("epsilon", 0),
        "ddim_v_prediction": run_ddim("v_prediction", 1),
        "ddim_sample": run_ddim("sample", 2),
        "euler": run_k_diffusion(diffusers.EulerDiscreteScheduler, 20, 3),
        "heun": run_k_diffusion(diffusers.HeunDiscreteScheduler, 10, 4),
        # The default grid is linspace(1, 0.001, 10) and then 0: its last step is short.
        "flow": run_flow(1.0, None, 5),
        # What pipelines hand in: sigmas 1, 0.9 ... 0.1, then 0; here shifted by 3.
        "flow_shift3": run_flow(3.0, np.linspace(1.0, 0.1, 10), 6),
    }
    for name, record in runs.items():
        arrays |= {f"{name}/{key}": value for key, value in record.items()}
        print(name, record["timesteps"].tolist(), "last x std", record["x"][-1].std())
    np.savez_compressed(HERE / "diffusers_schedulers.npz", **arrays)


if __name__ == "__main__":
    main()
