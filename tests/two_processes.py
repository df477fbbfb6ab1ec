"""Starts a program as two processes that train together, as hosts do, of JAX or TensorFlow.

    python two_processes.py PROGRAM ARGUMENTS ...

Ends when both have, with the code of one that failed.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys


def main(arguments):
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in found]
    processes = []
    for place in range(2):
        environment = os.environ | _told(place, addresses)
        processes.append(subprocess.Popen([sys.executable, *arguments], env=environment))
    return max(abs(process.wait()) for process in processes)


def _told(place, addresses):
    """By what environment a process knows of the other one."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        task = {"type": "worker", "index": place}
        return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
    told = {"NUM_PROCESSES": "2", "JOB_ADDRESSES": addresses[0], "PROCESS_ID": str(place)}
    return {f"KERAS_DISTRIBUTION_{name}": value for name, value in told.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
