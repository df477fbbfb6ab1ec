"""Put the results of several backends side by side: a table for the README and a plot.

python benchmarks/collect.py benchmarks/*.json --plot benchmarks/speed.png
"""

import argparse
import json
import pathlib


def read(path):
    """(about the run, its benchmarks) of a file of pytest-benchmark."""
    content = json.loads(pathlib.Path(path).read_text())
    about = content["machine_info"]["keras_dit"]
    about["date"] = content["datetime"][:10]
    about["processor"] = content["machine_info"]["cpu"].get("brand_raw", "")
    return about, content["benchmarks"]


def cell(benchmark):
    """What a table says of one benchmark."""
    info = benchmark["extra_info"]
    if "waiting_share" in info:
        return f"waits {info['waiting_share']:.0%}"
    if "overhead" in info:
        return f"{info['overhead']:.3f}x"
    if "held_bytes" in info:
        held, beside, step = (info[f"{name}_bytes"] / 1e9 for name in ("held", "beside", "step"))
        return f"{held:.2f} + {beside:.2f} ({step:.2f}) GB"
    if "peak_bytes" in info:
        seconds = info.get("to_picture", info.get("to_first_step"))
        parts = ", ".join(f"{name} {part:.1f}" for name, part in info["parts"].items())
        return f"{seconds:.1f} s ({parts}), {info['peak_bytes'] / 1e9:.2f} GB"
    text = f"{info['images_per_second']:.1f}"
    if "efficiency" in info:
        text += f" ({info['efficiency']:.0%} of {info['floor_gmacs_per_second']:.0f})"
    return text


def table(runs):
    """A Markdown table: a row for each benchmark, a column for each backend."""
    names = dict.fromkeys(b["name"] for _, benchmarks in runs for b in benchmarks)
    lines = [
        "| benchmark | " + " | ".join(about["backend"] for about, _ in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for name in names:
        cells = []
        for _, benchmarks in runs:
            found = [b for b in benchmarks if b["name"] == name and b["extra_info"]]
            cells.append(cell(found[0]) if found else "")
        lines.append("| " + " | ".join([name.removeprefix("test_"), *cells]) + " |")
    return "\n".join(lines)


def plot(runs, path):
    """Bars: the share of the matrix products' rate that each backend reaches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = [
        {b["name"]: b["extra_info"]["efficiency"] for b in benchmarks
         if "efficiency" in b["extra_info"]}
        for _, benchmarks in runs
    ]  # fmt: skip
    names = list(dict.fromkeys(name for share in shares for name in share))
    figure, axis = plt.subplots(figsize=(8, 1 + 0.25 * len(names) * len(runs)))
    height = 0.8 / len(runs)
    for i, ((about, _), share) in enumerate(zip(runs, shares, strict=True)):
        places = [place + i * height for place in range(len(names))]
        axis.barh(places, [share.get(n, 0) for n in names], height, label=about["backend"])
    axis.set_yticks(range(len(names)), [name.removeprefix("test_") for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("share of the rate of the bare matrix products")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="JSON")
    parser.add_argument("--plot", metavar="PNG")
    arguments = parser.parse_args()
    runs = [read(path) for path in arguments.results]
    for about, _ in runs:
        print(
            f"{about['backend']} on {about['device']} {about['processor']}, "
            f"keras {about['keras']}, {about['date']}"
        )
    print("\nImages a second, and the share of so many GMAC/s of the bare matrix products.\n")
    print(table(runs))
    if arguments.plot:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
