"""Models that are written for programs without Keras."""

import keras
from keras import tree

from keras_dit import backend

__all__ = ["Exportable", "condition_signature"]


class Exportable(keras.Model):
    """A model that can be exported, called before or not. Subclasses give `input_signature`."""

    def input_signature(self) -> list:
        """A `keras.InputSpec` for each tensor of a call, in the structure of its arguments."""
        raise NotImplementedError

    def export(self, filepath, format=None, verbose=None, input_signature=None, **kwargs):
        """Write the model for programs without Keras: `keras.Model.export`.

        What is written is made of plain operations, so that it runs on other processors too.

        Args:
            filepath: of the file, or the folder of a SavedModel.
            format: "tf_saved_model" on TensorFlow and JAX, "torch" (a .pt2 file) on torch, "onnx"
                on all of them; None: the first of these.
            input_signature: `keras.InputSpec` of the tensors of a call; None: with any batch size.
            verbose, **kwargs: as for `keras.Model.export`.

        Raises:
            ImportError: if the format takes a package that is not installed.
        """
        format = format or backend.EXPORT_FORMAT
        backend.check_export(format)
        if input_signature is None:
            input_signature = self.input_signature()
            kwargs = {**backend.open_batch(format, input_signature), **kwargs}
        with backend.plain_kernels():
            super().export(filepath, format, verbose, input_signature, **kwargs)


def condition_signature(null) -> list:
    """A list with the specs of y, of which null is a value; empty where there is no y."""
    if null is None:
        return []
    if not tree.is_nested(null):
        return [_spec(null, "y")]
    named = tree.flatten_with_path(null)
    specs = [_spec(value, "_".join(map(str, path))) for path, value in named]
    return [tree.pack_sequence_as(null, specs)]


def _spec(value, name):
    return keras.InputSpec(shape=(None, *value.shape[1:]), dtype=str(value.dtype), name=name)
