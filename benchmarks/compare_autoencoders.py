"""Stable Diffusion's autoencoder beside that of diffusers, same weights, in turn.

    python benchmarks/compare_autoencoders.py --diffusers PYTHON --torch PYTHON --jax PYTHON \
        --tensorflow PYTHON --side 256 --batch 1

Everyone is a process of its own, and outputs are compared before anything is timed.
"""

import argparse
import tempfile

import compare

REFERENCE = "diffusers"
CHANNELS, BLOCKS, LATENT = (128, 256, 512, 512), 2, 4
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


def multiply_adds(what, side):
    """Those of the convolutions and the attention for one image, counted from the architecture."""
    last = CHANNELS[-1]
    small = (side // 2 ** (len(CHANNELS) - 1)) ** 2  # places of the latents
    total = small * (4 * 9 * last**2 + 4 * last**2) + 2 * small**2 * last  # the middle
    total += side**2 * 9 * 3 * CHANNELS[0]
    if what == "encode":
        total += small * (9 * last + 2 * LATENT) * 2 * LATENT
        levels, blocks = list(enumerate(CHANNELS)), BLOCKS
    else:
        total += small * (9 * last + LATENT) * LATENT
        levels, blocks = list(enumerate(CHANNELS))[::-1], BLOCKS + 1
    before = levels[0][1]
    for level, width in levels:
        places = (side // 2**level) ** 2
        first = 9 * before * width + (before * width if before != width else 0)
        total += places * (first + (2 * blocks - 1) * 9 * width**2)
        if level != levels[-1][0]:  # half as large, or twice
            total += (places // 4 if what == "encode" else 4 * places) * 9 * width**2
        before = width
    return total


def table(results, side, batch):
    """Markdown: images a second, speed over diffusers, and the share of the fastest product."""
    names = list(results["encode"])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    products = {name: 1024**3 / seconds for name, seconds in results["product"].items()}
    for what in ("encode", "decode"):
        times, cells = results[what], []
        for name in names:
            rate = batch * multiply_adds(what, side) / times[name]
            speed, share = times[REFERENCE] / times[name], rate / max(products.values())
            cells.append(f"{batch / times[name]:.3f} ({speed:.2f}x, {share:.0%})")
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    rates = (f"{products[name] / 1e9:.0f} GMAC/s" for name in names)
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
    print("\nImages a second, speed over diffusers', and share of the fastest product's.\n")
    print(table(results, *case))


if __name__ == "__main__":
    main()
