"""The command keras-dit: demo, train, sample, evaluate, convert, info, bench."""

from keras_dit.cli.entry import main, parser

__all__ = ["main", "parser"]
