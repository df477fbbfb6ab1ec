"""The command keras-dit: demo, train, sample, convert, info."""

import argparse
import sys

import keras_dit
from keras_dit.cli import convert, demo, info, sample, train

DESCRIPTION = """\
Diffusion Transformers in Keras 3, on JAX, PyTorch and TensorFlow.
The environment variable KERAS_BACKEND (jax, torch, tensorflow) chooses the backend.

example: keras-dit demo"""


def parser():
    """The parser of the whole command."""
    top = argparse.ArgumentParser(
        prog="keras-dit",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"keras-dit {keras_dit.__version__}, backend {keras_dit.backend.BACKEND}"
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, train, sample, convert, info):
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.HELP,
            description=f"{module.HELP}\n\n{module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv=None):
    """Run the command; returns its exit code.

    0: done. 1: a fault of the machine, such as a full disk. 2: a mistake of the user's. 130:
    interrupted.
    """
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
        return 0
    except KeyboardInterrupt:
        print(f"keras-dit {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split())
        print(f"keras-dit {arguments.command}: error: {message}", file=sys.stderr)
        mistakes = (ValueError, ImportError, FileNotFoundError, FileExistsError, NotADirectoryError)
        return 2 if isinstance(error, (*mistakes, PermissionError)) else 1
