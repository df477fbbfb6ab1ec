"""Signals while the main thread is in a function of C, as when a backend compiles."""

import signal
import subprocess
import sys

import pytest

from keras_dit import interrupts

PROGRAM = """
import hashlib, importlib.util, signal, sys, time
spec = importlib.util.spec_from_file_location("interrupts", sys.argv[1])
interrupts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupts)

def answer(number):
    print("answered", number, file=sys.stderr, flush=True)

with interrupts.heard((signal.SIGINT, signal.SIGTERM), "in a while", answer):
    print("ready", flush=True)
    {work}
"""
COMPILING = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'  # half an hour, without Python
PYTHON = "while True: time.sleep(0.01)"


@pytest.fixture
def begun():
    processes = []

    def begin(work):
        program = PROGRAM.format(work=work)
        command = [sys.executable, "-c", program, interrupts.__file__]
        pipe = subprocess.PIPE
        # A shell that runs the tests in the background has them ignore Ctrl-C.
        heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        processes.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **heard))
        assert processes[0].stdout.readline() == "ready\n"
        return processes[0]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_answered_at_once_and_a_second_one_ends_the_process(begun, number):
    process = begun(COMPILING)
    process.send_signal(number)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline() == "in a while\n"
    assert process.poll() is None
    process.send_signal(number)
    # Killed by Python's own KeyboardInterrupt, if the main thread had not yet left Python.
    assert process.wait() in (128 + number, -number)


def test_where_python_runs_the_main_thread_answers_and_then_is_interrupted(begun):
    process = begun(PYTHON)
    process.send_signal(signal.SIGINT)
    assert [process.stderr.readline() for _ in range(3)] == ["\n", "in a while\n", "answered 2\n"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "in a while" not in errors  # once
    assert errors.endswith("KeyboardInterrupt\n")


def test_afterwards_signals_are_what_they_were():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    with interrupts.heard((signal.SIGINT,), "in a while"):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)) == before
