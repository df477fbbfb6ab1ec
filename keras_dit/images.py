"""Pictures in and out: bytes, grids, PNG, GIF and the preprocessing of picture files.

    x = u / 127.5 − 1,   u ∈ {0 … 255},   x ∈ [−1, 1]                                      (1)

Images are channels-last. A picture file is reduced to (H, W) as in ADM (Dhariwal, Nichol:
Diffusion Models Beat GANs on Image Synthesis, 2021) and DiT: halved with a box filter while both
sides stay large enough, then resized by a bicubic filter to cover (H, W), then cut at the centre.
"""

import math

import numpy as np
from PIL import Image, ImageOps

from keras_dit import files


def to_uint8(images):
    """Floats in [-1, 1] to bytes: rounded to the nearest, clipped outside.

    Args:
        images: array of floats of any shape.

    Returns:
        uint8 array of that shape.

    Raises:
        ValueError: if images are not floats, or hold NaN or an infinity.
    """
    images = np.asarray(images)
    # A kind of "V" is how numpy shows the bfloat16 of ml_dtypes.
    if images.dtype.kind not in "fV":
        raise ValueError(f"images must be floats in [-1, 1]. Received: dtype={images.dtype}")
    images = images.astype("float32")
    if not np.isfinite(images).all():
        raise ValueError("images must be finite. Received: NaN or infinite values")
    return np.clip(np.rint((images + 1.0) * 127.5), 0, 255).astype("uint8")  # (1)


def from_uint8(images):
    """Bytes to float32 in [-1, 1]; `to_uint8` gives the same bytes back.

    Args:
        images: uint8 array of any shape.

    Returns:
        float32 array of that shape.

    Raises:
        ValueError: if images are not uint8.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8. Received: dtype={images.dtype}")
    return images.astype("float32") / np.float32(127.5) - np.float32(1.0)  # (1)


def _bytes(images):
    images = np.asarray(images)
    return images if images.dtype == np.uint8 else to_uint8(images)


def grid(images, columns=None, padding=1, scale=1, background=255):
    """Lay pictures out row by row in one picture.

    Args:
        images: (N, H, W, C), C of 1 or 3; uint8, or floats in [-1, 1].
        columns: pictures in a row; None makes the grid about square.
        padding: pixels between the pictures and around them.
        scale: every pixel of a picture becomes scale x scale pixels.
        background: grey level of the padding and of empty places, 0 to 255.

    Returns:
        uint8 array (rows, columns, C), in pixels.

    Raises:
        ValueError: on another shape, no pictures, or an argument out of its range.
    """
    images = _bytes(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            "images must be of shape (N, H, W, C), not empty, with 1 or 3 channels. "
            f"Received: shape={images.shape}"
        )
    count = len(images)
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    for name, value, low in (("columns", columns, 1), ("padding", padding, 0), ("scale", scale, 1)):
        if value != int(value) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}. Received: {value}")
    if not 0 <= background <= 255:
        raise ValueError(f"background must be in 0..255. Received: {background}")
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = images.shape[1] + padding, images.shape[2] + padding
    shape = (math.ceil(count / columns) * height + padding, columns * width + padding)
    sheet = np.full((*shape, images.shape[-1]), background, "uint8")
    for i, image in enumerate(images):
        top, left = i // columns * height + padding, i % columns * width + padding
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _pillow(picture):
    picture = _bytes(picture)
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3) or 0 in picture.shape:
        raise ValueError(
            "a picture must be of shape (H, W, C), not empty, with 1 or 3 channels. "
            f"Received: shape={picture.shape}"
        )
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def save_png(path, picture):
    """Write one picture as PNG, creating the folder where needed.

    Args:
        path: the file to write; an older one is replaced whole.
        picture: (H, W, C), C of 1 or 3; uint8, or floats in [-1, 1].

    Raises:
        OSError: if the target cannot be written; an older file is then left as it was.
        ValueError: on another shape or dtype.
    """
    picture = _pillow(picture)
    with files.beside(path) as new:
        picture.save(new, "PNG")


def save_gif(path, frames, milliseconds=100, last=1000):
    """Write pictures as an animated GIF that repeats, creating the folder where needed.

    Args:
        path: the file to write; an older one is replaced whole.
        frames: sequence of pictures as for `save_png`, all of one shape.
        milliseconds: how long a frame stays; the format keeps tens of milliseconds.
        last: how long the last frame stays, in milliseconds.

    Raises:
        OSError: if the target cannot be written; an older file is then left as it was.
        ValueError: on no frames, frames of several shapes, or a duration below 10.
    """
    pictures = [_pillow(frame) for frame in frames]
    shapes = sorted({np.shape(frame) for frame in frames})
    if len(shapes) != 1:
        raise ValueError(f"frames must be pictures of one shape. Received: shapes={shapes}")
    if min(milliseconds, last) < 10:
        raise ValueError(
            "milliseconds and last must be at least 10. "
            f"Received: milliseconds={milliseconds}, last={last}"
        )
    durations = [milliseconds] * (len(pictures) - 1) + [last]
    with files.beside(path) as new:
        pictures[0].save(
            new, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
        )


def _to_mode(picture, mode):
    """Convert a Pillow picture to L or RGB without losing what it shows."""
    if picture.mode.startswith("I;16"):
        # Pillow's own conversion from 16 bits cuts everything above 255 off.
        picture = Image.fromarray((np.asarray(picture) / 257 + 0.5).astype("uint8"))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode} have no fixed range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert(mode)


def _cover(picture, height, width):
    """The centre (height, width) of a Pillow picture, resized so that its shorter side fits."""
    # One halving at a time, though each rounds: scores are compared on these very pixels.
    while picture.width >= 2 * width and picture.height >= 2 * height:
        halves = (picture.width // 2, picture.height // 2)
        picture = picture.resize(halves, Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def read(path, image_size=None, channels=3):
    """Decode a picture file, resize it to cover image_size and cut the centre out.

    A photograph is turned as its EXIF orientation says; what is transparent becomes white; of an
    animation the first frame is taken.

    Args:
        path: a file in any format that Pillow reads.
        image_size: (H, W) of the result; None leaves the size as it is.
        channels: 3 for colour, 1 for grey.

    Returns:
        uint8 array (H, W, channels).

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be decoded; the message names the file.
        ValueError: if channels is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3. Received: channels={channels}")
    try:
        with Image.open(path) as file:
            picture = _to_mode(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # what a broken file raises differs from decoder to decoder
        raise OSError(f"cannot read the picture {path}: {error}") from error
    if image_size is not None:
        picture = _cover(picture, *image_size)
    return np.array(picture).reshape(picture.height, picture.width, channels)
