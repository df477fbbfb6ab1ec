"""Starts a program as two processes of JAX that train together, as hosts do.

    python processes_of_jax.py PROGRAM ARGUMENTS ...

Ends when both have, with the code of one that failed.
"""

import os
import socket
import subprocess
import sys


def main(arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {"NUM_PROCESSES": "2", "JOB_ADDRESSES": address}
    processes = []
    for place in ("0", "1"):
        own = {**told, "PROCESS_ID": place}
        environment = os.environ | {f"KERAS_DISTRIBUTION_{n}": v for n, v in own.items()}
        processes.append(subprocess.Popen([sys.executable, *arguments], env=environment))
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
