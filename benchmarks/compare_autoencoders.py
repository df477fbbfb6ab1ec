"""Stable Diffusion's autoencoder beside that of diffusers, same weights, in turn.

    python benchmarks/compare_autoencoders.py --diffusers PYTHON --torch PYTHON --jax PYTHON \
        --tensorflow PYTHON --side 256 --batch 1

Everyone is a process of its own, and outputs are compared before anything is timed.
"""

import argparse
import tempfile

import compare

REFERENCE = "diffusers"
KINDS = ("encode", "decode", "product")


def start(arguments, folder):
    """The workers by name. The first leaves weights, inputs and outputs in the folder."""
    program = "peer_autoencoder.py"
    workers = {REFERENCE: compare.Worker(program, arguments.diffusers, "diffusers", folder)}
    for backend in compare.BACKENDS:
        if getattr(arguments, backend):
            python = getattr(arguments, backend)
            worker = compare.Worker(program, python, "ours", folder, backend=backend)
            workers[f"keras_dit, {backend}"] = worker
    return workers


def table(results, batch):
    """Markdown: images a second, and speed over diffusers; and each one's rate of bare products."""
    lines = [
        "| | " + " | ".join(results["encode"]) + " |",
        "|---" * (len(results["encode"]) + 1) + "|",
    ]
    for what in ("encode", "decode"):
        times = results[what]
        cells = [f"{batch / t:.3f} ({times[REFERENCE] / t:.2f}x)" for t in times.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    rates = (f"{1024**3 / t / 1e9:.0f} GMAC/s" for t in results["product"].values())
    return "\n".join([*lines, "| product of 1024 x 1024 | " + " | ".join(rates) + " |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffusers", required=True, metavar="PYTHON")
    for backend in compare.BACKENDS:
        parser.add_argument(f"--{backend}", metavar="PYTHON")
    parser.add_argument("--side", type=int, default=256, help="of the images")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    case = arguments.side, arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        workers = start(arguments, folder)
        try:
            results = {k: compare.measure(workers, k, case, arguments.rounds) for k in KINDS}
        finally:
            for worker in workers.values():
                worker.close()
    print(f"\nImages a second, and speed over diffusers'.\n\n{table(results, arguments.batch)}")


if __name__ == "__main__":
    main()
