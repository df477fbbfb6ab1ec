"""A worker of compare_autoencoders.py: peer_autoencoder.py diffusers|ours FOLDER."""

import pathlib
import sys

import numpy as np
import peer

FOLDER = pathlib.Path(sys.argv[2])


def diffusers_worker():
    """AutoencoderKL of diffusers, whose weights are drawn here and left in the folder."""
    sys.modules["torchvision"] = None  # not needed, and one that does not fit torch would disturb
    import diffusers
    import torch

    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()
    network.save_pretrained(FOLDER / "vae")
    first = {"encode": lambda x: network.encode(x).latent_dist.mean,
             "decode": lambda z: network.decode(z).sample}  # fmt: skip

    def prepare(what, side, batch):
        x = torch.from_numpy(inputs(what, side, batch).transpose(0, 3, 1, 2).copy())
        run = first.get(what, lambda x: torch.matmul(x, x))
        if what == "product":
            x = torch.ones((1024, 1024))

        def call():
            with torch.inference_mode():
                return run(x)

        if what != "product":
            np.save(FOLDER / f"{what}.npy", call().numpy().transpose(0, 2, 3, 1))
        return call

    return prepare, lambda result: None


def ours_worker():
    """AutoencoderKL of keras_dit with those weights, as a codec runs it."""
    from keras import ops

    from keras_dit import backend
    from keras_dit.codecs import Autoencoder

    codec = Autoencoder.from_preset(FOLDER / "vae")
    values = backend.laid_out(backend.compute_values(codec.network, codec.network.weights))
    product = backend.compile_inference(ops.matmul)

    def prepare(what, side, batch):
        if what == "product":
            ones = ops.ones((1024, 1024))
            return lambda: product(ones, ones)
        x = ops.convert_to_tensor(inputs(what, side, batch))
        run = codec._encoder if what == "encode" else codec._decoder
        result = ops.convert_to_numpy(run(values, x))
        expected = np.load(FOLDER / f"{what}.npy")
        peer.check_same(result[..., : expected.shape[-1]], expected)
        return lambda: run(values, x)

    return prepare, backend.synchronize


def inputs(what, side, batch):
    """Images or latents, channels last."""
    shape = (side, side, 3) if what == "encode" else (side // 8, side // 8, 4)
    return np.random.default_rng(0).uniform(-1, 1, (batch, *shape)).astype("float32")


if __name__ == "__main__":
    peer.serve(*(diffusers_worker if sys.argv[1] == "diffusers" else ours_worker)())
