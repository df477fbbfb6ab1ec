"""What a network costs: parameters and multiply-adds."""

from keras_dit.networks.dit import output_channels_of


def count_parameters(config):
    """Parameters of a network, fixed positions included, without building it.

    Args:
        config: arguments of `DiTModel` as a dict; those left out take its defaults.

    Returns:
        int.
    """
    size = _Extent(config)
    width, mlp = size.width, size.mlp
    block = _dense(width, 6 * width) + _dense(width, 3 * width) + _dense(width, width)
    block += _dense(width, mlp) + _dense(mlp, width)
    time = _dense(size.frequencies, width) + _dense(width, width)
    classes = config.get("num_classes")
    label = 0 if classes is None else (classes + 1) * width
    final = _dense(width, 2 * width) + _dense(width, size.patch_numbers * size.output_channels)
    patches = _dense(size.patch_numbers * size.channels, width)
    return patches + size.tokens * width + time + label + size.depth * block + final


def multiply_adds(config):
    """Multiply-adds of one picture's forward pass, which the paper's table calls Gflops.

    Args:
        config: arguments of `DiTModel` as a dict; those left out take its defaults.

    Returns:
        int.
    """
    size = _Extent(config)
    width, tokens = size.width, size.tokens
    block = tokens * (4 * width**2 + 2 * width * size.mlp + 2 * tokens * width) + 6 * width**2
    ends = tokens * size.patch_numbers * width * (size.channels + size.output_channels)
    conditioning = size.frequencies * width + width**2 + 2 * width**2
    return size.depth * block + ends + conditioning


class _Extent:
    """The numbers that the cost of a network is made of."""

    frequencies = 256

    def __init__(self, config):
        height, columns, self.channels = config["input_shape"]
        self.patch_numbers = config["patch_size"] ** 2
        self.tokens = height * columns // self.patch_numbers
        self.width, self.depth = config["hidden_size"], config["depth"]
        self.mlp = int(self.width * config.get("mlp_ratio", 4.0))
        self.output_channels = output_channels_of(config)


def _dense(inputs, outputs):
    return (inputs + 1) * outputs
