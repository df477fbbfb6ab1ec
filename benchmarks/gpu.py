"""DiT-S to XL on this machine's GPU, beside facebookresearch/DiT and what is claimed for an A100.

    python benchmarks/gpu.py --facebook path/to/DiT
    python benchmarks/gpu.py --jax PYTHON --tensorflow PYTHON --torch PYTHON --facebook path/to/DiT

Without names of Pythons every backend is taken that this one has; facebookresearch/DiT runs in
torch's, with timm beside it. Each figure is of a process of its own, in bfloat16 (theirs under
autocast), on latents of 32 x 32 x 4 with patches of 2: samples a second of whole runs of DDIM,
images a second of training steps with AdamW and average, and the peak of the device's memory. The
tables are printed, row by row while they come about. `--smoke` takes a tiny case, on a CPU too.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

BACKENDS = ("jax", "tensorflow", "torch")
THEIRS = "facebookresearch/DiT"
KINDS = ("sampling", "training")
CLAIMED = {"S": (120, 4), "B": (50, 12), "L": (25, 24), "XL": (15, 32)}  # by artifex, on an A100
HERE = pathlib.Path(__file__).parent


class Case(NamedTuple):
    """What is measured.

    Args:
        size: of `CLAIMED`.
        patch, side: of the network and of the latents, which have four channels.
        batch: images at once.
        steps: of a run.
    """

    size: str
    patch: int = 2
    side: int = 32
    batch: int = 64
    steps: int = 50


def ours(kind, case):
    """keras_dit's function to time."""
    import keras_dit
    from keras_dit.cli import bench

    dtype = "bfloat16" if kind == "sampling" else "mixed_bfloat16"
    preset, shape = f"dit_{case.size.lower()}_{case.patch}", (case.side, case.side, 4)
    network = keras_dit.DiTModel.from_preset(
        preset, input_shape=shape, num_classes=1000, dtype=dtype
    )
    if kind == "training":
        return bench.training_step(keras_dit.Diffusion(network), case.batch)
    return bench.sampling(keras_dit.Diffusion(network, ema=None), case.batch, case.steps)


def theirs(kind, case, folder):
    """The same of facebookresearch/DiT: the loops of its sample.py and train.py."""
    import peer_facebook
    import torch

    models = peer_facebook.import_models(folder)
    from diffusion import create_diffusion

    torch.backends.cuda.matmul.allow_tf32 = True  # as its programs have it
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_default_device(device)
    network = peer_facebook.network(models, case.size, case.patch, case.side, 4)
    x = torch.randn(case.batch, 4, case.side, case.side)
    y = torch.randint(0, 1000, (case.batch,))
    bfloat16 = torch.autocast(device.type, torch.bfloat16)
    if kind == "training":
        t = torch.randint(0, 1000, (case.batch,))
        step = peer_facebook.training(network, (x, t, y))

        def train():
            with bfloat16:
                return step()

        return train
    diffusion = create_diffusion(str(case.steps), learn_sigma=False)

    def sample():
        with torch.inference_mode(), bfloat16:
            return diffusion.ddim_sample_loop(
                network, x.shape, x, clip_denoised=False, model_kwargs={"y": y}, device=device
            )

    return sample


def measured(peer, kind, case, folder):
    """[images a second, bytes], or what went wrong, in words; run in a process of its own."""
    from keras_dit import backend
    from keras_dit.cli import bench

    try:
        call = theirs(kind, case, folder) if peer == THEIRS else ours(kind, case)
        seconds = bench.seconds(call, rounds=5, limit=60.0)
    except Exception as error:  # said in the table, which goes on
        return "out of memory" if backend.is_out_of_memory(error) else f"failed: {error}"[:100]
    return [case.batch / seconds, int(backend.peak_memory()), backend.device_name()]


def ask(python, peer, kind, case, folder):
    """What a process of that Python measures."""
    backend = "torch" if peer == THEIRS else peer
    request = json.dumps([peer, kind, case, folder])
    done = subprocess.run(
        [python, __file__, "--measure", request],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:  # such as killed for its memory
        words = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return f"ended with code {done.returncode}: {words}"[:100]
    return json.loads(answers[0].removeprefix("ANSWER "))


def has(python, name):
    """Whether a Python has a package."""
    found = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is None)"
    return subprocess.run([python, "-c", found], check=False).returncode == 0


def peers(arguments):
    """The Python of each that is measured, by its name."""
    chosen = {name: getattr(arguments, name) for name in BACKENDS}
    if not any(chosen.values()):
        chosen = {name: sys.executable if has(sys.executable, name) else None for name in BACKENDS}
    if arguments.facebook:
        if not (chosen["torch"] and has(chosen["torch"], "timm")):
            raise SystemExit("--facebook needs torch with timm: give its Python by --torch")
        chosen = {THEIRS: chosen["torch"], **chosen}
    return {name: python for name, python in chosen.items() if python}


def cell(answer, reference):
    """A figure for the table, with its ratio to facebookresearch/DiT's."""
    if isinstance(answer, str):
        return answer
    rate, memory, _ = answer
    ratio = f" ({rate / reference[0]:.2f}x)" if isinstance(reference, list) else ""
    return f"{rate:.1f}{ratio}, {memory / 1e9:.1f} GB"


def table(kind, cases, names, ask_for):
    """Print a table row by row; returns the device's name."""
    claims = ["claimed, A100"] if kind == "sampling" else []
    print(f"\n| {kind} | " + " | ".join([*claims, *names]) + " |", flush=True)
    print("|---" * (1 + len(claims) + len(names)) + "|")
    device = None
    for case in cases:
        answers = {name: ask_for(name, kind, case) for name in names}
        claim = "{}, {} GB".format(*CLAIMED[case.size])
        cells = [cell(answer, answers.get(THEIRS)) for answer in answers.values()]
        row = [f"DiT-{case.size}/{case.patch}", *([claim] if claims else []), *cells]
        print("| " + " | ".join(row) + " |", flush=True)
        told = [answer[2] for answer in answers.values() if isinstance(answer, list)]
        device = told[0] if told else device
    return device


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--facebook", metavar="FOLDER", help="a clone of facebookresearch/DiT")
    for name in BACKENDS:
        parser.add_argument(f"--{name}", metavar="PYTHON")
    parser.add_argument("--sizes", nargs="*", default=list(CLAIMED), choices=CLAIMED)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--smoke", action="store_true", help="one small case, to see that it works")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        peer, kind, case, folder = json.loads(arguments.measure)
        print("ANSWER", json.dumps(measured(peer, kind, Case(*case), folder)), flush=True)
        return
    found = peers(arguments)
    cases = [Case(size, batch=arguments.batch_size) for size in arguments.sizes]
    if arguments.smoke:
        cases = [Case("S", patch=8, side=16, batch=2, steps=2)]

    def ask_for(name, kind, case):
        return ask(found[name], name, kind, case, arguments.facebook)

    for kind in KINDS:
        device = table(kind, cases, list(found), ask_for)
    print(f"\nImages a second (over {THEIRS}'s), and peak memory, on {device}; batch "
          f"{cases[0].batch}, bfloat16, runs of {cases[0].steps} steps.")  # fmt: skip


if __name__ == "__main__":
    main()
