"""The command: demo, train, sample, evaluate, autoencoder, encode, convert, info, bench."""

from keras_dit.cli.entry import main, parser

__all__ = ["main", "parser"]
