"""Beside others' code on the same weights, in turn, so that a drift of the machine meets all.

    python benchmarks/compare.py --facebook path/to/DiT --jax python --tensorflow python \
        --torch python

Each option names the Python that has the backend. facebookresearch/DiT runs in torch's, and so
does diffusers if it is installed there. Everyone is a process that waits while another is
measured; outputs are compared before anything is timed.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
CASES = {  # size, patch, side of the picture, channels
    "S/4 32x32x3": ("S", 4, 32, 3),
    "S/2 32x32x4": ("S", 2, 32, 4),
    "B/4 64x64x3": ("B", 4, 64, 3),
}


class Worker:
    """A process that measures on request."""

    def __init__(self, program, python, *arguments, backend="torch"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [python, str(HERE / program), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, *request):
        """The answer to one request, or None if this process has nothing to say to it."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"{self.process.args} ended before it answered {request}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(workers, what, case, rounds):
    """The median seconds of each, asked in turn."""
    times = {}
    for name, worker in workers.items():
        if worker.ask("prepare", what, *case):
            times[name] = []
    for _ in range(rounds):
        for name in times:
            times[name].append(workers[name].ask("time"))
    return {name: statistics.median(values) for name, values in times.items()}


def report(label, times, batch=8):
    reference = times["facebookresearch/DiT"]
    for name, seconds in times.items():
        print(
            f"| {label} | {name} | {batch / seconds:.1f} | {reference / seconds:.2f}x |", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facebook", required=True, metavar="FOLDER")
    for backend in ("jax", "tensorflow", "torch"):
        parser.add_argument(f"--{backend}", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile of theirs too")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = [arguments.torch, arguments.facebook, folder]
        workers = {
            name: Worker("peer_facebook.py", *theirs, mode)
            for name, mode in (
                ("facebookresearch/DiT", "eager"),
                ("facebookresearch/DiT, torch.compile", "compiled"),
            )
            if mode == "eager" or arguments.compiled
        }
        for backend in ("jax", "tensorflow", "torch"):
            if getattr(arguments, backend):
                workers[f"keras_dit, {backend}"] = Worker(
                    "peer_ours.py", getattr(arguments, backend), folder, backend=backend
                )
        print("| case | who | images/s | against facebookresearch/DiT |\n|---|---|---|---|")
        for label in arguments.cases:
            for what in ("forward", "forward bfloat16", "training"):
                times = measure(workers, what, CASES[label], arguments.rounds)
                report(f"{label} {what}", times)
        for worker in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
