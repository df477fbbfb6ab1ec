"""What the workers of compare.py share: a process that measures on request.

Requests come as lines of JSON: ["prepare", what, size, patch, side, channels] makes a function
ready to be timed, "time" times it. A worker leaves its arrays in a folder or finds them there.
"""

import json
import sys
import time


def serve(prepare, wait=lambda result: None):
    """Answer requests until there are no more.

    Args:
        prepare: (what, size, patch, side, channels) -> a function to time, or None for what is
            not measured so.
        wait: called with what the function gave, until that is computed.
    """
    call = None
    for line in sys.stdin:
        request = json.loads(line)
        if request[0] == "prepare":
            call = None  # of the last case: its memory is free before the next takes its own
            call = prepare(*request[1:])
            for _ in range(3 if call else 0):
                wait(call())
            answer = call is not None
        else:
            answer = min(_seconds(call, wait) for _ in range(3))  # the first meets cold caches
        print("ANSWER", json.dumps(answer), flush=True)


def _seconds(call, wait):
    start = time.perf_counter()
    wait(call())
    return time.perf_counter() - start


def check_same(output, expected):
    """End the program unless two arrays are the same to 1e-4 of the largest number."""
    difference = abs(output - expected).max() / abs(expected).max()
    if not difference < 1e-4:
        raise SystemExit(f"outputs differ by {difference} of the largest")
