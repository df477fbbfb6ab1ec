"""The command keras-dit: demo, train, sample, convert, info, bench."""

import argparse
import signal
import sys

import keras_dit
from keras_dit import backend, command
from keras_dit.cli import bench, convert, demo, info, sample, train

DESCRIPTION = """\
Diffusion Transformers in Keras 3, on JAX, PyTorch and TensorFlow.
The environment variable KERAS_BACKEND (jax, torch, tensorflow) chooses the backend.

example: keras-dit demo"""

MISTAKES = (
    ValueError,
    ImportError,
    FloatingPointError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    PermissionError,
)


class _Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, not with the whole usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser():
    """The parser of the whole command."""
    top = _Parser(
        prog="keras-dit",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"keras-dit {keras_dit.__version__}, backend {keras_dit.backend.BACKEND}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, train, sample, convert, info, bench):
        one = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.HELP,
            description=f"{module.HELP}\n\n{module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return top


def main(argv=None):
    """Run the command; returns its exit code.

    0: done. 1: a fault of the machine, such as a full disk. 2: a mistake of the user's. 128 and
    the signal's number: interrupted, 130 by Ctrl-C.
    """
    arguments = parser().parse_args(argv)
    with command.quiet():
        backend.device_name()  # TensorFlow looks for devices, and writes of it
    try:
        with command.plain_warnings():
            arguments.run(arguments)
        return 0
    except KeyboardInterrupt as interruption:
        message = str(interruption) or "interrupted"
        print(f"keras-dit {arguments.command}: {message}", file=sys.stderr)
        return 128 + getattr(interruption, "signal", signal.SIGINT)
    except Exception as error:
        if arguments.debug:
            raise
        print(f"keras-dit {arguments.command}: error: {_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, MISTAKES) else 1


def _line(error):
    """What went wrong, in one line."""
    if backend.is_out_of_memory(error):
        return (
            "out of memory. What helps: a smaller --batch-size, and in training --remat, "
            "--dtype mixed_bfloat16 or a larger --patch-size"
        )
    message = " ".join(str(error).split())
    if isinstance(error, (OSError, *MISTAKES)):
        return message
    return f"{type(error).__name__}: {message} (--debug shows where)"
