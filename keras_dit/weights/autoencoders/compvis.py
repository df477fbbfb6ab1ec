"""The files of CompVis's latent-diffusion and of all that keep its names.

A checkpoint of the autoencoder alone has its tensors bare, one of a whole latent diffusion model
(Stable Diffusion) below `first_stage_model.`, both maybe inside `state_dict`. Flux's autoencoder
has these names too. No such file holds a configuration: it follows from the shapes, and the scale
from what else is in it.
"""

import re

from keras_dit.weights import files
from keras_dit.weights.autoencoders import layout
from keras_dit.weights.autoencoders.source import AutoencoderSource
from keras_dit.weights.files import Stored, some
from keras_dit.weights.format import Format

_WHOLE = "first_stage_model."  # before the autoencoder's names in a latent diffusion model
_OTHERS = ("loss.", "model_ema.")  # beside them in a checkpoint of its training
_FAMILIES = {  # a name in a whole model: whose it is, with scale and shift of its latents
    r"model\.diffusion_model\.joint_blocks\.": ("Stable Diffusion 3", 1.5305, 0.0609),
    r"model\.diffusion_model\.double_blocks\.|double_blocks\.": ("Flux", 0.3611, 0.1159),
    r"conditioner\.embedders\.": ("Stable Diffusion XL", 0.13025, 0.0),
    r"cond_stage_model\.": ("Stable Diffusion 1 or 2", 0.18215, 0.0),
}
_USUAL = 0.18215  # of four channels
_RULES = (  # common name -> CompVis's; a level of the decoder is counted from the other end
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.attentions\.", r".down.\1.attn."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d+)\.attentions\.", r".up.\1.attn."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)


class CompVis(Format):
    """A file of CompVis's latent-diffusion, of its autoencoder or of a whole model."""

    title = "a .safetensors, .ckpt or .pt file of CompVis's autoencoder, or of Stable Diffusion"
    suffixes = (".safetensors", ".ckpt", ".pt")

    def detect(self, path):
        return path.is_file()

    def open(self, path):
        state = _state(path)
        whole = any(name.startswith(_WHOLE) for name in state)
        tensors = _own(state, whole, path)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down.")})
        names = layout.names_of(lambda name: compvis_name(name, levels))
        config = layout.inferred(shapes, names, path)
        scale, shift, notes = _scale(state, config["latent_channels"], path)
        return AutoencoderSource(
            str(path), config, tensors, names, scale=scale, shift=shift, notes=notes
        )

    def check(self, path):
        files.check_library(path)

    def export(self, network, path, facts=None):
        codec_network = network.network
        levels = len(codec_network.config["channels"])
        names = layout.names_of(lambda name: compvis_name(name, levels))
        tensors = layout.separated(layout.save(codec_network), names)
        files.write({name: _as_convolution(name, t) for name, t in tensors.items()}, path)


def compvis_name(name: str, levels: int) -> str:
    """The name of a tensor there, of an autoencoder of so many resolutions.

    Example:

    >>> compvis_name("decoder.up_blocks.0.resnets.1.conv_shortcut.weight", 4)
    'decoder.up.3.block.1.nin_shortcut.weight'
    """
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return re.sub(
        r"^decoder\.up\.(\d+)", lambda match: f"decoder.up.{levels - 1 - int(match[1])}", name
    )


def _state(path):
    """The tensors of a file by their names in it."""
    content = files.read(path)
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {name: t for name, t in content.items() if isinstance(t, Stored)}
    if not tensors:
        raise ValueError(f"{path} holds no state dict, but {some(content) or 'nothing'}")
    return tensors


def _own(state, whole, path):
    """The autoencoder's tensors without what stands before their names."""
    if whole:
        return {
            name.removeprefix(_WHOLE): tensor
            for name, tensor in state.items()
            if name.startswith(_WHOLE)
        }
    own = {name: tensor for name, tensor in state.items() if not name.startswith(_OTHERS)}
    if any(name.startswith("quantize.") for name in own):
        raise ValueError(f"{path} holds a VQ autoencoder, with a codebook, which is not supported")
    return own


def _scale(state, channels, path):
    """Scale, shift and notes."""
    for pattern, (whose, scale, shift) in _FAMILIES.items():
        if any(re.match(pattern, name) for name in state):
            return scale, shift, (f"by its other tensors it is of {whose}: scale {scale}",)
    if channels == 4:
        return _USUAL, 0.0, (
            f"nothing in it says the scale of its latents: taken for {_USUAL}, that of Stable "
            "Diffusion 1 and 2 (XL: 0.13025)",)  # fmt: skip
    return None, None, ()


def _as_convolution(name, tensor):
    """The linear maps of attention are convolutions there."""
    if len(tensor.shape) != 2:
        return tensor
    return Stored((*tensor.shape, 1, 1), lambda: tensor.read()[:, :, None, None])
