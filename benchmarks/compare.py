"""Beside others' code on the same weights, in turn, so that a drift of the machine meets all.

    python benchmarks/compare.py --facebook path/to/DiT --torch python --jax python \
        --tensorflow python --diffusers python --artifex python

Each option names the Python that has it, and keras_dit beside it. facebookresearch/DiT runs in
torch's. Everyone is a process of its own; outputs are compared before anything is timed.
"""

import argparse
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile

REFERENCE = "facebookresearch/DiT"
BACKENDS = ("jax", "tensorflow", "torch")
KINDS = ("forward", "forward bfloat16", "training")
HERE = pathlib.Path(__file__).parent
CASES = {  # size, patch, side of the picture, channels
    "S/4 32x32x3": ("S", 4, 32, 3),
    "S/2 32x32x4": ("S", 2, 32, 4),
    "B/4 64x64x3": ("B", 4, 64, 3),
}


KEEP_MEMORY = {  # what `backend.reuse_freed_memory` does, for both that run on JAX
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
}


class Worker:
    """A process that measures on request and is stopped while others do."""

    def __init__(self, program, python, *arguments, backend="torch"):
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if backend == "jax":
            environment.update(KEEP_MEMORY)
        command = [python, str(HERE / program), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # in ours, a stopped process may end us all
        )
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, *request):
        """The answer to one request, or None if this process has nothing to say to it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                self.process.send_signal(signal.SIGSTOP)
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"{self.process.args} ended before it answered {request}")

    def close(self):
        self.process.kill()
        self.process.wait()


def start(arguments, folder):
    """The workers by name. The first leaves weights, inputs and outputs in the folder."""
    workers = {}

    def add(name, python, program, *more, **settings):
        if python:
            workers[name] = Worker(program, python, *more, **settings)

    theirs = "peer_facebook.py", arguments.facebook, folder
    add(REFERENCE, arguments.torch, *theirs, "eager")
    if arguments.compiled:
        add(f"{REFERENCE}, torch.compile", arguments.torch, *theirs, "compiled")
    add("diffusers", arguments.diffusers, "peer_diffusers.py", folder)
    artifex = arguments.artifex, "peer_artifex.py", folder
    add("artifex", *artifex, "eager", backend="jax")
    add("artifex, nnx.jit", *artifex, "jit", backend="jax")
    for backend in BACKENDS:
        python = getattr(arguments, backend)
        add(f"keras_dit, {backend}", python, "peer_ours.py", folder, backend=backend)
    return workers


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


def table(results, batch=8):
    """Markdown: a row for each measurement, a column for each peer."""
    names = list(dict.fromkeys(name for times in results.values() for name in times))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, times in results.items():
        cells = []
        for name in names:
            ratio = f" ({times[REFERENCE] / times[name]:.2f}x)" if name in times else ""
            cells.append(f"{batch / times[name]:.1f}{ratio}" if name in times else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facebook", required=True, metavar="FOLDER")
    parser.add_argument("--torch", required=True, metavar="PYTHON")
    for name in ("jax", "tensorflow", "diffusers", "artifex"):
        parser.add_argument(f"--{name}", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile of theirs too")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = start(arguments, folder)
        try:
            for label, what in itertools.product(arguments.cases, KINDS):
                results[f"{label} {what}"] = measure(workers, what, CASES[label], arguments.rounds)
                print(table(results).splitlines()[-1], flush=True)
        finally:
            for worker in workers.values():
                worker.close()
    print(f"\nImages a second, and speed over {REFERENCE}'s.\n\n{table(results)}")


if __name__ == "__main__":
    main()
