"""`fit` from any step on: Keras begins with an epoch, so the rest of one comes first."""

import warnings

import keras

from keras_dit.training.checkpoints import positions


def fit(train, model, checkpoint, data, epochs, callbacks, verbose, **kwargs):
    """Train with a `Checkpoint`.

    Args:
        train: Keras's `fit` of the model.
        model: the `Diffusion`.
        checkpoint: the `Checkpoint`.
        data: (pictures, labels, sample weights), arrays or None, or (data set, None, None). A set
            with `batch(epoch, index)`, such as `ImageBatches`, can go on within an epoch.
        epochs, callbacks, verbose, **kwargs: as for `keras.Model.fit`.

    Returns:
        The history of the whole run.
    """
    facts = checkpoint.open()
    data = _positioned(data, facts, kwargs)
    if isinstance(data, positions.EpochView):
        checkpoint.data = positions.description(data.data)
        if facts:
            positions.check_same(checkpoint.folder, checkpoint.data, facts["data"])
    elif checkpoint.step:
        warnings.warn(
            f"{type(data).__name__} cannot be read from a given batch on: epoch "
            f"{checkpoint.epoch + 1} begins again, with the state that was saved in it",
            stacklevel=3,
        )
        checkpoint.step = 0
    begin, step = max(checkpoint.epoch, kwargs.pop("initial_epoch", 0)), checkpoint.step
    checkpoint.others = callbacks
    together = _OneTraining(checkpoint, data, callbacks, epochs, verbose, model)
    kwargs |= {"callbacks": together, "verbose": 0}
    if step:
        data.start = together.offset = step
        train(data, initial_epoch=begin, epochs=begin + 1, **kwargs)
        data.start = together.offset = 0
    if not (step and model.stop_training):
        train(data, initial_epoch=begin + bool(step), epochs=epochs, **kwargs)
    together.close()
    return model.history


def _positioned(data, facts, kwargs):
    """Data that knows its places as Keras reads it; other data as it is."""
    data, *rest = data
    batch_size, shuffle = kwargs.pop("batch_size", None), kwargs.get("shuffle", True)
    if hasattr(data, "shape"):
        for name in ("validation_split", "steps_per_epoch"):
            if kwargs.get(name):
                raise ValueError(f"{name} does not go with arrays and a Checkpoint")
        seed = facts["data"].get("seed") if facts else None
        data = positions.ArrayBatches((data, *rest), batch_size, shuffle, seed)
    if not hasattr(data, "batch") or isinstance(kwargs.get("steps_per_epoch"), int):
        return data
    kwargs["shuffle"] = False  # its order is its own
    return positions.EpochView(data)


class _OneTraining(keras.callbacks.CallbackList):
    """Callbacks that see one training where Keras runs two."""

    def __init__(self, checkpoint, data, callbacks, epochs, verbose, model):
        super().__init__(
            [*callbacks, checkpoint],  # the last, so that it saves what the others changed
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=epochs,
            steps=getattr(data, "num_batches", None),
            model=model,
        )
        self.checkpoint, self.data = checkpoint, data
        self.offset = 0  # of the batches that Keras counts
        self.begun, self.last_logs = False, None

    def on_train_begin(self, logs=None):
        if not self.begun:
            self.begun = True
            self.checkpoint.restore()
            super().on_train_begin(logs)
            self.checkpoint.recall()

    def on_epoch_begin(self, epoch, logs=None):
        if isinstance(self.data, positions.EpochView):
            self.data.epoch = epoch
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch + self.offset, logs)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch + self.offset, logs)

    def on_train_end(self, logs=None):
        self.last_logs = logs

    def close(self):
        """The end of the training."""
        super().on_train_end(self.last_logs)
