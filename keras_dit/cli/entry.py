"""The parser of the whole command, and what a fault is answered with."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator

import keras_dit
from keras_dit import backend, command, interrupts
from keras_dit.cli import (
    autoencoder,
    average,
    bench,
    convert,
    demo,
    encode,
    evaluate,
    info,
    sample,
    train,
)
from keras_dit.cli.options import Parser

__all__ = ["main", "parser"]

DESCRIPTION = """\
Diffusion Transformers in Keras 3, on JAX, PyTorch and TensorFlow.
The environment variable KERAS_BACKEND (jax, torch, tensorflow) chooses the
backend.

example: keras-dit demo"""

COMMANDS = (demo, train, sample, evaluate, average, autoencoder, encode, convert, info, bench)
STOPPING = "stopping after this step, or when it is compiled; once more: at once"
MISTAKES = (
    ValueError,
    ImportError,
    FloatingPointError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    PermissionError,
)


def parser() -> Parser:
    """The parser of the whole command."""
    top = Parser(prog="keras-dit", description=DESCRIPTION)
    version = f"keras-dit {keras_dit.__version__}, backend {backend.BACKEND}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for module in COMMANDS:
        one = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.HELP,
            description=f"{module.HELP}\n\n{module.EXAMPLE}",
        )
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(one)
        one.set_defaults(run=module.run, spellings=one.spellings())
    return top


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done. 1: a fault of the machine, such as a full disk. 2: a mistake of the user's. 128 and
    the signal's number: interrupted, 130 by Ctrl-C.
    """
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.command is None:
        top.print_help()
        return 0
    devices = getattr(arguments, "devices", None) or 1
    given, shares = sys.argv[1:] if argv is None else argv, hasattr(arguments, "shares")
    code = None if shares else backend.launched(devices, "keras_dit", given)
    if code is not None:
        return code

    def words(error):
        return _line(error, arguments.spellings)

    leads = True
    try:
        with contextlib.ExitStack() as stack:
            with command.quiet():  # TensorFlow looks for devices, and writes of it
                if shares:
                    stack.enter_context(backend.team(devices, "keras_dit", given, words))
                else:
                    together = hasattr(arguments, "devices")
                    stack.enter_context(backend.on_devices(devices, together))
                backend.device_name()
                backend.keep_compiled()
            leads = backend.leads()
            stack.enter_context(_one_voice())
            stack.enter_context(command.plain_warnings())
            stack.enter_context(interrupts.heard((signal.SIGINT,), STOPPING))
            arguments.run(arguments)
        return 0
    except backend.ShareDone:  # of what several processes make; the one that leads goes on
        return 0
    except KeyboardInterrupt as interruption:
        message = str(interruption) or "interrupted"
        print(f"keras-dit {arguments.command}: {message}", file=sys.stderr)
        return 128 + getattr(interruption, "signal", signal.SIGINT)
    except Exception as error:
        if arguments.debug:
            raise
        line = words(error)
        mistake = isinstance(error, MISTAKES)
        if leads or not mistake:  # all processes have met the same mistake
            print(f"keras-dit {arguments.command}: error: {line}", file=sys.stderr)
        return 2 if mistake else 1


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes only the one that leads says what all of them do."""
    if backend.leads():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _line(error, spellings):
    """What went wrong, in one line and in the command's words."""
    if backend.is_out_of_memory(error):
        return (
            "out of memory. What helps: a smaller --batch-size, and in training --remat, "
            "--dtype mixed_bfloat16 or a larger --patch-size"
        )
    message = _as_options(" ".join(str(error).split()), spellings)
    if isinstance(error, (OSError, *MISTAKES)):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"


def _as_options(message, spellings):
    """The message with Python's arguments under the names of the command's options.

    `patch_size=3` becomes `--patch-size 3`, `give num_heads=` becomes `give --num-heads`.
    """
    for name, option in spellings.items():
        message = re.sub(rf"(?<![-\w]){name}=(?=[^\s=])", f"{option} ", message)
        message = re.sub(rf"(?<![-\w]){name}=(?=\s|$)", option, message)
        if "_" in name:  # a single word may be prose
            message = re.sub(rf"(?<![-\w]){name}(?!\w)", option, message)
    return message
