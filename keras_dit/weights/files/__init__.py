"""How files of tensors are read and written, whatever network is in them."""

from keras_dit.weights.files import folders
from keras_dit.weights.files.reading import note, read
from keras_dit.weights.files.stored import Stored, joined, some
from keras_dit.weights.files.writing import check_library, write

__all__ = ["Stored", "check_library", "folders", "joined", "note", "read", "some", "write"]
