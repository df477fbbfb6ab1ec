"""Prints the table of docs/scaling.md: what a step of training costs on many accelerators.

    python scripts/scaling.py --flops 989e12 --memory 80e9 --link 450e9 --network 50e9 --node 8

It is arithmetic, not a measurement:

    arithmetic     6 M b / (u F)           M multiply-adds of an image forward, b images a device,
                                           three passes, two operations each; u the share of the
                                           peak F that is reached
    data parallel  2 (N - 1)/N · 4 P / W   a ring's all-reduce of P gradients in float32
    fully sharded  3 (N - 1)/N · 4 P / W   gathers weights twice, scatters gradients once
    memory         20 P / shards + 2 b T D (F depth + 32)   `networks.training_memory`, in bfloat16

W is the link of a device within a node. Between nodes as many rings run beside each other as a node
has ways out, so that W is what the whole node sends, if that is less. Communication hides behind
the backward pass, two thirds of the arithmetic, as far as it can.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_dit.networks import SIZES, count_parameters, multiply_adds, preset_config

BATCH = 256  # images of the whole batch, as DiT was trained
PARAMETER = 20  # bytes: weight, gradient, two moments of AdamW, average, all float32
KEPT, KEPT_REMAT, ENDS = 36, 1, 32  # floats a token, unit of width and block keeps


def step(size, pixels, devices, machine, batch):
    """(seconds of arithmetic, of communication, of both together, bytes a device, what is done)."""
    side = pixels // 8  # latents of an autoencoder that makes images an eighth of their side
    config = {**preset_config(f"dit_{size}_2"), "input_shape": (side, side, 4), "num_classes": 1000}
    parameters, images = count_parameters(config), batch / devices
    work = 6 * multiply_adds(config) * images / (machine.reached * machine.flops)
    width, depth = config["hidden_size"], config["depth"]

    def memory(shards, kept):
        floats = images * (side // 2) ** 2 * width * (kept + ENDS)
        return PARAMETER * parameters / shards + 2 * floats

    remat = KEPT_REMAT * depth + KEPT
    choices = [
        ("data parallel", 1, KEPT * depth, 2, 1.0),
        ("data parallel, remat", 1, remat, 2, 4 / 3),
        ("fully sharded, remat", devices, remat, 3, 4 / 3),
    ]
    for words, shards, kept, passes, again in choices:  # noqa: B007
        held = memory(shards, kept)
        if held < 0.9 * machine.memory:
            break
    else:
        words = "too large: accumulate"
    speed = machine.link
    if devices > machine.node:
        speed = min(machine.link, machine.node * machine.network)
    sent = passes * (devices - 1) / devices * 4 * parameters / speed
    arithmetic = work * again
    return arithmetic, sent, arithmetic / 3 + max(2 / 3 * arithmetic, sent), held, words


def table(machine, batch, counts):
    """The rows, Markdown."""
    rows = [
        "| size | pixels | devices | split | arithmetic, ms | communication, ms | step, ms | "
        "images/s | memory, GB | limited by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for pixels in (256, 512):
            for devices in counts:
                work, sent, whole, held, words = step(size, pixels, devices, machine, batch)
                limit = "network" if sent > 2 / 3 * work else "arithmetic"
                rows.append(
                    f"| {size.upper()}/2 | {pixels} | {devices} | {words} | {1e3 * work:.1f} | "
                    f"{1e3 * sent:.1f} | {1e3 * whole:.1f} | {batch / whole:,.0f} | "
                    f"{held / 1e9:.1f} | {limit} |"
                )
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--flops", type=float, default=989e12, help="peak operations a second of a device")
    add("--reached", type=float, default=0.4, help="share of it that is reached")
    add("--memory", type=float, default=80e9, help="bytes of a device")
    add("--link", type=float, default=450e9, help="bytes a second, one way, within a node")
    add("--network", type=float, default=50e9, help="the same for each device between nodes")
    add("--node", type=int, default=8, help="devices of a node")
    add("--batch-size", type=int, default=BATCH, help="images of the whole batch")
    add("--devices", type=int, nargs="+", default=[8, 64, 256])
    arguments = parser.parse_args()
    print(table(arguments, arguments.batch_size, arguments.devices))


if __name__ == "__main__":
    main()
