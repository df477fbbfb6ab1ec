"""Make diffusers_solvers.npz: the stochastic and the multistep solvers of diffusers.

The foreign code is diffusers 0.42.1 (Apache 2.0) with torch 2.13.0 on CPU. Command:

    python tests/goldens/make_diffusers_solvers.py

As in make_diffusers.py a function stands for the network, here one that gives the clean image
itself (prediction type "sample", in which no noise is divided by a small alpha), for Euler
ancestral the noise and for a flow the velocity. The samples are x_t, but for Euler ancestral's
x_t / alpha. What the file holds: README.md.
"""

import pathlib
import unittest.mock

import diffusers
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
SHAPE = (2, 2, 3, 4)
STEPS = 20
TABLE = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "sample",
    "timestep_spacing": "trailing",
}
DDPM = TABLE | {"clip_sample": False}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.0}
DPM, UNIPC = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
# name: (scheduler, options)
RUNS = {
    "ddpm_small": (diffusers.DDPMScheduler, DDPM | {"variance_type": "fixed_small"}),
    "ddpm_large": (diffusers.DDPMScheduler, DDPM | {"variance_type": "fixed_large"}),
    "euler_ancestral": (
        diffusers.EulerAncestralDiscreteScheduler,
        TABLE | {"prediction_type": "epsilon"},
    ),
    "dpmpp_2m": (DPM, TABLE),
    "dpmpp_2m_sde": (DPM, TABLE | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc_2": (UNIPC, TABLE | {"solver_order": 2}),
    "unipc_3": (UNIPC, TABLE | {"solver_order": 3}),
    "dpmpp_2m_flow": (DPM, FLOW),
    "unipc_2_flow": (UNIPC, FLOW | {"solver_order": 2}),
    "unipc_3_flow": (UNIPC, FLOW | {"solver_order": 3}),
}


def run(scheduler_class, options, seed):
    """Run a scheduler to its end on outputs and noise that are stored."""
    scheduler = scheduler_class(**options)
    scheduler.set_timesteps(STEPS)
    rng = np.random.default_rng(seed)

    def draw(*_, **__):
        return torch.from_numpy(rng.standard_normal(SHAPE).astype("float32"))

    centre = 0.6 * draw()
    x = start = draw() * scheduler.init_noise_sigma
    record = {"outputs": [], "noise": [], "x": []}

    def noise(*_, **__):
        record["noise"].append(draw())
        return record["noise"][-1]

    module = scheduler_class.__module__
    for i, timestep in enumerate(scheduler.timesteps):
        output = centre + 0.6 * draw()
        if options["prediction_type"] != "sample":  # alike: noise of alpha = 1, noise - x0
            output = (x - output) / scheduler.sigmas[i]
        scheduler.scale_model_input(x, timestep)
        with unittest.mock.patch(f"{module}.randn_tensor", noise, create=True):
            x = scheduler.step(output, timestep, x).prev_sample
        record["outputs"].append(output)
        record["x"].append(x)
    arrays = {key: torch.stack(value) for key, value in record.items() if value}
    arrays |= {"x_T": start, "timesteps": scheduler.timesteps}
    if hasattr(scheduler, "sigmas"):
        arrays["sigmas"] = scheduler.sigmas
    return {key: value.numpy() for key, value in arrays.items()}


def main():
    """Write the runs."""
    arrays = {}
    for seed, (name, (scheduler, options)) in enumerate(RUNS.items()):
        record = run(scheduler, options, 100 + seed)
        arrays |= {f"{name}/{key}": value for key, value in record.items()}
        print(name, record["timesteps"].tolist(), "last x std", record["x"][-1].std())
    np.savez_compressed(HERE / "diffusers_solvers.npz", **arrays)


if __name__ == "__main__":
    main()
